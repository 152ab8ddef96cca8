// The rest of the BIOS door: it puts the image where it belongs, makes an hvm_start_info of what the BIOS knows of memory
// and of corbel.cfg, and enters the image by PVH, in 32-bit protected mode without paging.
//
// What lies where below 1 MiB:
//   0x5000   hvm_start_info and the list of modules      0x5100   the memory map
//   0x7c00   the first sector and this, and below them the stack
//   0x10000  where the BIOS reads to, 64 sectors         0x20000  corbel.cfg, up to 64 KiB
//   0x30000  the table of the file system                0x40000  its root folder, or its first sector

.set INFO, 0x5000
.set MODULE, 0x5040
.set MEMORY, 0x5100
.set MEMORY_END, 0x5100 + 128 * 24
.set DOCUMENT, 0x20000
.set TABLE, 0x30000
.set FOLDER, 0x40000

.set AT_ONCE, 64                            // sectors that the BIOS reads at once
.set CLUSTER, 4                             // sectors of a cluster
.set FOLDER_SECTORS, 32
.set LONGEST, 0x10000
.set SMAP, 0x534d4150

rest:
    jmp begin
.org 514
    .word REST                              // by which the first sector knows what it has read
.org 516
// Filled in by image/pack.
image_sector:   .long 0
image_sectors:  .long 0
image_address:  .long 0                     // where they go
image_entry:    .long 0
place_start:    .long 0                     // the memory that the image needs
place_end:      .long 0
file_system:    .long 0                     // its first sector
table_sectors:  .long 0

begin:
    call is_a20_on
    jne memory
    movw $0x2401, %ax
    int $0x15
    call is_a20_on
    jne memory
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al                         // the lowest bit would reset the machine
    outb %al, $0x92
    call is_a20_on
    movw $a20_line, %si
    je refuse

memory:
    movw $MEMORY, %di
    xorl %ebx, %ebx
1:  movl $0xe820, %eax
    movl $20, %ecx
    movl $SMAP, %edx
    int $0x15
    jc 3f
    cmpl $SMAP, %eax
    jne 3f
    movl $0, 20(%di)
    movl 8(%di), %eax
    orl 12(%di), %eax
    jz 2f                                   // of no length
    addw $24, %di
2:  testl %ebx, %ebx
    jz 3f
    movw $map_line, %si                     // what is cut off a map may be what takes memory away
    decw calls
    jz refuse
    cmpw $MEMORY_END, %di
    jb 1b
    jmp refuse
3:  movw %di, memory_end
    movw $MEMORY, %si
4:  cmpw memory_end, %si                    // is there one range that has all that the image needs?
    jae no_place
    cmpl $1, 16(%si)
    jne 5f
    cmpl $0, 4(%si)
    jne 5f
    movl (%si), %eax
    cmpl place_start, %eax
    ja 5f
    subl place_end, %eax
    negl %eax                               // so many bytes from its start
    cmpl $0, 12(%si)
    jne is_it_kept
    cmpl 8(%si), %eax
    jbe is_it_kept
5:  addw $24, %si
    jmp 4b
no_place:
    movw $place_line, %si
    jmp refuse

is_it_kept:                                 // where a map contradicts itself, the range that takes memory away wins
    movw $MEMORY, %si
1:  cmpw memory_end, %si
    jae read_image
    cmpl $1, 16(%si)
    je 2f
    cmpl $0, 4(%si)
    jne 2f
    movl (%si), %eax
    cmpl place_end, %eax
    jae 2f
    cmpl $0, 12(%si)
    jne no_place
    addl 8(%si), %eax
    jc no_place
    cmpl place_start, %eax
    ja no_place
2:  addw $24, %si
    jmp 1b

read_image:
    movl image_sector, %eax
    movl image_sectors, %ecx
    movl image_address, %edi
    call read

    movl file_system, %eax
    movl $1, %ecx
    movl $FOLDER, %edi
    call read
    movw $FOLDER >> 4, %ax
    movw %ax, %es
    movw $3, %di
    movw $system_name, %si
    movw $8, %cx
    repe cmpsb
    movw $system_line, %si
    jne refuse
    xorw %ax, %ax
    movw %ax, %es
    movl file_system, %eax
    incl %eax
    movl table_sectors, %ecx
    movl $TABLE, %edi
    call read
    movl table_sectors, %eax
    addl %eax, %eax
    incl %eax
    addl file_system, %eax
    movl $FOLDER_SECTORS, %ecx
    movl $FOLDER, %edi
    call read                               // EAX: where cluster 2 begins
    movl %eax, first_cluster

    movw $FOLDER >> 4, %ax
    movw %ax, %es
    xorw %di, %di
1:  movw $document_name, %si
    movw $11, %cx
    pushw %di
    repe cmpsb
    popw %di
    jne 2f
    testb $0x18, %es:11(%di)                // neither a folder nor the disk's name
    jz document
2:  addw $32, %di
    cmpw $FOLDER_SECTORS * 512, %di
    jne 1b
    xorl %ebp, %ebp
    jmp go

document:
    movl %es:28(%di), %ebp                  // its length
    movw %es:26(%di), %bx                   // its first cluster
    xorw %ax, %ax
    movw %ax, %es
    testl %ebp, %ebp
    jz go
    movw $long_line, %si
    cmpl $LONGEST, %ebp
    ja refuse
    movl $DOCUMENT, %edi
1:  movw $document_line, %si
    cmpw $2, %bx
    jb refuse
    cmpw $0xfff0, %bx
    jae refuse
    movzwl %bx, %eax
    subl $2, %eax
    shll $2, %eax
    addl first_cluster, %eax
    movl $CLUSTER, %ecx
    pushw %bx
    call read
    popw %bx
    leal -DOCUMENT(%edi), %eax
    cmpl %ebp, %eax
    jae go
    cmpw $0x8000, %bx                       // so many are in the table's 64 KiB
    jae refuse
    addw %bx, %bx
    movw $TABLE >> 4, %ax
    movw %ax, %fs
    movw %fs:(%bx), %bx
    jmp 1b

go:                                         // EBP: bytes of corbel.cfg
    movw $BUFFER >> 4, %ax                  // keys that the last cluster held are not for whoever gets this memory
    movw %ax, %es
    xorw %di, %di
    xorl %eax, %eax
    movw $(CLUSTER + 3) * 512 / 4, %cx      // on a CD up to three sectors lie before it
    rep stosl
    movw %ax, %es
    movw $INFO, %di
    movw $128, %cx
    rep stosw
    movl $0x336ec578, INFO
    movl $1, INFO + 4
    movl $MEMORY, INFO + 40
    movzwl memory_end, %eax
    subl $MEMORY, %eax
    xorl %edx, %edx
    movl $24, %ecx
    divl %ecx
    movl %eax, INFO + 48
    testl %ebp, %ebp
    jz 1f
    movl $1, INFO + 12
    movl $MODULE, INFO + 16
    movl $DOCUMENT, MODULE
    movl %ebp, MODULE + 8
    movl $module_name, MODULE + 16
1:  cli
    lgdtl table_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $2f
.code32
2:  movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $INFO, %ebx
    movl image_entry, %eax
    jmpl *%eax
.code16

// Read ECX sectors from sector EAX on to physical address EDI, wherever that is; each ends behind what was read.
read:
    movl %ecx, sectors_left
    movl %eax, next_sector
1:  movl sectors_left, %ecx
    testl %ecx, %ecx
    jz 5f
    cmpl $AT_ONCE, %ecx
    jbe 2f
    movl $AT_ONCE, %ecx
2:  movl %ecx, sectors_now
    movl next_sector, %eax
    call where
    movb $3, tries
3:  movw sectors_asked, %ax
    movw %ax, packet_sectors
    pushl %edi
    pushl %ebp
    movb $0x42, %ah
    movb drive, %dl
    movw $packet, %si
    int $0x13
    popl %ebp
    popl %edi
    jnc 4f
    movw $no_disk_line, %si
    decb tries
    jz refuse
    movb $0, %ah                            // reset it, and once more
    movb drive, %dl
    int $0x13
    jmp 3b
4:  movl sectors_now, %ecx
    addl %ecx, next_sector
    subl %ecx, sectors_left
    shll $9, %ecx
    call copy
    jmp 1b
5:  movl next_sector, %eax
    ret

// Copy ECX bytes from `source`, where the BIOS has read to, to physical address EDI, which ends behind them. For that moment segments
// reach to the end: their limits are what was loaded last in protected mode.
copy:
    cli
    pushw %ds
    pushw %es
    lgdtl table_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    jmp 1f
1:  movw $16, %dx
    movw %dx, %ds
    movw %dx, %es
    andb $0xfe, %al
    movl %eax, %cr0
    jmp 2f
2:  popw %es
    popw %ds
    movl source, %esi
    shrl $2, %ecx
    rep movsl (%esi), %es:(%edi)
    sti
    ret

// Whether addresses above 1 MiB are what they seem: `ne` when they are.
is_a20_on:
    movw $0xffff, %ax
    movw %ax, %fs
    movw first + 510, %ax                   // 0xaa55, and the same 1 MiB higher if they are not
    cmpw %fs:first + 510 + 16, %ax
    jne 1f
    notw first + 510
    movw first + 510, %ax
    cmpw %fs:first + 510 + 16, %ax
1:  ret

memory_end:     .word 0
calls:          .word 512                   // of E820, at most
tries:          .byte 0
.balign 4
sectors_left:   .long 0
sectors_now:    .long 0
next_sector:    .long 0
source:         .long 0
sectors_asked:  .word 0
.balign 4
first_cluster:  .long 0
packet:
    .byte 16, 0
packet_sectors: .word 0
    .word 0, BUFFER >> 4
packet_sector:  .quad 0

.balign 8
table:
    .quad 0
    .quad 0x00cf9b000000ffff                // 32-bit code
    .quad 0x00cf93000000ffff                // data
table_pointer:
    .word . - table - 1
    .long table

system_name:    .ascii "CORBEL  "
document_name:  .ascii "CORBEL  CFG"
module_name:    .asciz "corbel.cfg"
a20_line:       .asciz "memory above 1 MiB cannot be reached"
map_line:       .asciz "the memory map is too long"
place_line:     .asciz "memory that the image needs is not there"
system_line:    .asciz "the file system for corbel.cfg is not the one that was there"
.balign 512

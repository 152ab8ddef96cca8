// The first sector of the disk: what a BIOS loads to 0x7c00 and enters in real mode, with the disk's number in DL. It reads
// the rest of the door to where this ends and goes on there. It has 440 bytes; behind them is the partition table.
//
// What is to be read, and from where, is filled in by image/pack at the offsets that it knows. On a CD the BIOS has read all
// of the door: then there is nothing to be read, and instead of from where it says at which of the CD's sectors, of 2 KiB,
// the disk begins that lies there. image/formats fills that in.

.set REST, 0x4243
.set BUFFER, 0x10000                        // where the BIOS reads to

.section .text.bios, "awx", @progbits
.code16
.global first
first:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $first, %sp
    sti
    cld
    ljmpw $0, $1f                           // some BIOSes enter at 0x7c0:0
1:  movb %dl, drive
    cmpw $0, rest_count
    je here
    movb $0x41, %ah                         // are there extended reads?
    movw $0x55aa, %bx
    int $0x13
    jc no_disk
    cmpw $0xaa55, %bx
    jne no_disk
    movb $0x42, %ah
    movb drive, %dl
    movw $rest_packet, %si
    int $0x13
    jc no_disk
here:
    cmpw $REST, rest + 2                    // it may be a disk that was laid out anew around this sector
    jne no_door
    jmp rest

no_door:
    movw $no_door_line, %si
    jmp refuse

no_disk:
    movw $no_disk_line, %si

// Print a line, whose place is in SI, on the screen and on the first serial port, and stay.
refuse:
    pushw %si
    movw $0x00e3, %ax                       // 9600 8N1
    xorw %dx, %dx
    int $0x14
    movw $name_line, %si
    call say
    popw %si
    call say
    movw $end_line, %si
    call say
1:  hlt
    jmp 1b

say:
    lodsb
    testb %al, %al
    jz 1f
    pushw %ax
    movb $0x0e, %ah
    movw $7, %bx
    int $0x10
    popw %ax
    movb $1, %ah
    xorw %dx, %dx
    int $0x14
    jmp say
1:  ret

// Tell the BIOS which of its sectors to read so that the ECX sectors of 512 bytes from EAX on are among them, and find out
// where in memory the first of these will be.
where:
    movl $BUFFER, %ebx
    cmpw $0, rest_count
    jne 1f
    movl %eax, %edx
    andl $3, %edx                           // so many before it in the same sector of a CD
    leal 3(%ecx, %edx), %ecx
    shrl $2, %ecx
    shrl $2, %eax
    addl rest_sector, %eax
    shll $9, %edx
    addl %edx, %ebx
1:  movl %ebx, source
    movl %eax, packet_sector
    movw %cx, sectors_asked
    ret

drive:          .byte 0
name_line:      .asciz "corbel: "
end_line:       .asciz "\r\n"
no_disk_line:   .asciz "the disk cannot be read"
no_door_line:   .asciz "the rest of the door is not where it was"

long_line:      .asciz "corbel.cfg is longer than 64 KiB"
document_line:  .asciz "corbel.cfg cannot be read"

.org 424
rest_packet:
    .byte 16, 0
rest_count:
    .word 0                                 // how many sectors: filled in
    .word rest, 0
rest_sector:
    .quad 0                                 // the first: filled in
.org 440
.org 512

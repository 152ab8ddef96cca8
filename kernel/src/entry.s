// The PVH entry (Xen's x86 HVM direct boot ABI): from 32-bit protected mode without paging to Rust in long mode.
//
// The loader gives: flat segments, paging off, interrupts off, EBX = physical address of hvm_start_info. It gives no
// stack, no GDT we may rely on, and it does not clear BSS. AT&T syntax, because only there is `symbol - BASE` an
// immediate the assembler hands to the linker. Everything here runs at its load address until the last jump.

.set BASE, 0xffffffff80000000
.set BASE_LOW, 0x80000000

.set CR0_PE, 1 << 0
.set CR0_MP, 1 << 1
.set CR0_EM, 1 << 2
.set CR0_TS, 1 << 3
.set CR0_NE, 1 << 5
.set CR0_WP, 1 << 16
.set CR0_NW, 1 << 29
.set CR0_CD, 1 << 30
.set CR0_PG, 1 << 31
.set CR4_PAE, 1 << 5
.set CR4_OSFXSR, 1 << 9
.set CR4_OSXMMEXCPT, 1 << 10
.set EFER, 0xc0000080
.set EFER_LME, 1 << 8
.set EFER_NXE, 1 << 11

.section .note.pvh, "a", @note
.balign 4
.long 4                         // length of the name
.long 8                         // length of the descriptor: QEMU reads eight bytes from an ELF64
.long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.long pvh_entry - BASE, 0       // physical addresses are of 32 bits: then who moves the image sees that they stay

.section .text.pvh_entry, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cli
    cld
    movl %ebx, %esi

    // Clear BSS; the page tables below and the stack are in it.
    // By plain stores: a translator takes `rep stos` apart into single rounds. It ends with a page.
    movl $(__bss_start - BASE), %edi
    movl $(__bss_end - BASE), %ecx
    xorl %eax, %eax
    jmp 2f
1:  movl %eax, (%edi)
    movl %eax, 4(%edi)
    movl %eax, 8(%edi)
    movl %eax, 12(%edi)
    addl $16, %edi
2:  cmpl %ecx, %edi
    jb 1b

    // How far above where it is linked the image runs: what unpacked it has moved all addresses in it, this one too.
    movl moved - BASE, %ebp
    subl $(pvh_entry - BASE), %ebp
    subl $BASE_LOW, %ebp

    // Temporary tables: the first 4 GiB at themselves, and their beginning so far above BASE as well, up to its first GiB.
    movl $(boot_tables - BASE), %edi
    leal 0x1003(%edi), %eax                 // level 4, entry 0 -> low level 3
    movl %eax, (%edi)
    leal 0x2003(%edi), %eax                 // level 4, entry 511 -> high level 3
    movl %eax, 0xff8(%edi)
    leal 0x3003(%edi), %eax                 // low level 3, entries 0..4 -> level 2
    movl %eax, 0x1000(%edi)
    addl $0x1000, %eax
    movl %eax, 0x1008(%edi)
    addl $0x1000, %eax
    movl %eax, 0x1010(%edi)
    addl $0x1000, %eax
    movl %eax, 0x1018(%edi)
    addl $0x1000, %eax                      // high level 3, entry 510 -> a level 2 of its own
    movl %eax, 0x2ff0(%edi)
    movl $0x83, %eax                        // present, writable, 2 MiB
    xorl %ecx, %ecx
1:  movl %eax, 0x3000(%edi,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 1b
    movl $0x83, %eax
    movl %ebp, %ecx
    shrl $21, %ecx
1:  movl %eax, 0x7000(%edi,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $512, %ecx
    jb 1b
    movl %edi, %cr3

    // SSE before any Rust: the target's code uses it. NXE only where there is NX; Rust refuses to go on without.
    movl %cr4, %eax
    orl $(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT), %eax
    movl %eax, %cr4
    movl $0x80000001, %eax
    cpuid
    andl $(1 << 20), %edx
    shrl $9, %edx                           // CPUID's NX bit is EFER's NXE bit, nine places up
    movl $EFER, %ecx
    movl %edx, %edi
    rdmsr
    orl $EFER_LME, %eax
    orl %edi, %eax
    wrmsr
    movl %cr0, %eax
    andl $~(CR0_EM | CR0_TS | CR0_NW | CR0_CD), %eax  // a CPU comes out of reset without its caches
    orl $(CR0_PE | CR0_MP | CR0_NE | CR0_WP | CR0_PG), %eax
    movl %eax, %cr0

    lgdtl boot_gdt_pointer - BASE
    ljmpl $8, $(long_mode - BASE)

.code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $high, %rax
    jmpq *%rax
high:
    leaq {stacks}+{stack_top}(%rip), %rsp
    xorl %ebp, %ebp                         // the end of every backtrace
    movl %esi, %edi
    call {start}
    ud2

.section .rodata.boot_gdt, "a", @progbits
.balign 8
moved:
    .quad pvh_entry
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                // 64-bit code; accessed already, for the table is read-only
    .quad 0x00cf93000000ffff                // data
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt - BASE, 0

.section .bss.boot_tables, "aw", @nobits
.balign 4096
.global boot_tables
boot_tables:
    .skip 8 * 4096
.text

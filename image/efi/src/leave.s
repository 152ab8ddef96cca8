// The step from the firmware's long mode to 32-bit protected mode without paging, as PVH enters an image: flat segments,
// interrupts off, EBX = physical address of hvm_start_info (it comes in RDI; the entry in RSI). On the way it puts the pieces
// of the image where they belong (the list of them comes in RDX): with paging off nothing of the firmware's is needed.
//
// It is copied to memory below 4 GiB that is mapped at its own address, and runs wherever it lies.

.set CR0_PG, 1 << 31
.set EFER, 0xc0000080
.set EFER_LME, 1 << 8

.text
.global leave
.code64
leave:
    cli
    cld
    movl %edi, %ebx
    movl %edx, %ebp
    movq %cr4, %rax
    btrq $17, %rax                          // PCIDE: with it paging cannot be switched off
    movq %rax, %cr4
    leaq 3f(%rip), %rax                     // the table's place, for its pointer
    movq %rax, 2f+2(%rip)
    lgdtq 2f(%rip)
    leaq 1f(%rip), %rax
    leaq 5f(%rip), %rsp                     // the firmware's stack may lie above 4 GiB; a return needs two words
    pushq $8
    pushq %rax
    lretq
.code32
1:  movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl %cr0, %eax
    andl $~CR0_PG, %eax
    movl %eax, %cr0
    movl $EFER, %ecx
    rdmsr
    andl $~EFER_LME, %eax
    wrmsr
    xorl %eax, %eax
    movl %eax, %cr4
    movl %esi, %edx
6:  movl (%ebp), %esi
    movl 4(%ebp), %edi
    movl 8(%ebp), %ecx
    jecxz 7f
    addl $12, %ebp
    rep movsb
    jmp 6b
7:  jmpl *%edx

.balign 8
2:  .word 4f - 3f - 1
    .quad 0
    .balign 8
3:  .quad 0
    .quad 0x00cf9b000000ffff                // 32-bit code
    .quad 0x00cf93000000ffff                // data
4:  .skip 32
5:
.org leave + 256, 0xcc                      // so many are copied; more than that would not be assembled
.code64

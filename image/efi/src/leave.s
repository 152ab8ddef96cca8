// The step from the firmware's long mode to 32-bit protected mode without paging, as PVH enters an image: flat segments,
// interrupts off, EBX = physical address of hvm_start_info (it comes in RDI; the entry in RSI).
//
// It is copied to memory below 4 GiB that is mapped at its own address, and runs wherever it lies.

.set CR0_PG, 1 << 31
.set EFER, 0xc0000080
.set EFER_LME, 1 << 8

.text
.global leave
.global leave_end
.code64
leave:
    cli
    cld
    movl %edi, %ebx
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
    jmpl *%esi

.balign 8
2:  .word 4f - 3f - 1
    .quad 0
    .balign 8
3:  .quad 0
    .quad 0x00cf9b000000ffff                // 32-bit code
    .quad 0x00cf93000000ffff                // data
4:  .skip 32
5:
leave_end:
.code64

// Unpacks an image in place and goes on to its entry: what runs first in a packed image.
//
// It is entered as the image itself would be, by PVH: 32-bit protected mode, flat segments, no paging, no stack, EBX =
// physical address of hvm_start_info, which is left alone. It runs wherever it lies, and uses no memory of its own. The
// first four instructions are filled in by image/pack.
//
// The bytes are an LZ4 block that keeps two more rules, for which image/pack vouches: no match is nearer than 16 bytes, so
// that 16 are copied at once, and the block ends with a run of at least 15 literals, so that only there an end is looked
// for. They lie behind the end of what becomes of them, so far that writing never catches up with reading.

.set CR0_MP, 1 << 1
.set CR0_EM, 1 << 2
.set CR0_TS, 1 << 3
.set CR4_OSFXSR, 1 << 9

.section .text.unpack, "ax", @progbits
.code32
.global unpack
unpack:
    movl $0, %esi                           // the packed bytes
    movl $0, %edi                           // where they go
    movl $0, %ebp                           // the end of that
    movl $0, %esp                           // the image's entry: there is no stack to need the register

    cld
    movl %cr0, %eax
    andl $~(CR0_EM | CR0_TS), %eax
    orl $CR0_MP, %eax
    movl %eax, %cr0
    movl %cr4, %eax
    orl $CR4_OSFXSR, %eax
    movl %eax, %cr4

sequence:
    movzbl (%esi), %eax                     // the token: the number of literals above that of the match
    incl %esi
    movl %eax, %ecx
    shrl $4, %ecx
    cmpl $15, %ecx
    je many_literals
    movups (%esi), %xmm0
    movups %xmm0, (%edi)
    addl %ecx, %esi
    addl %ecx, %edi

match:
    movzwl (%esi), %edx
    addl $2, %esi
    negl %edx
    addl %edi, %edx                         // from so far back
    andl $15, %eax
    cmpl $15, %eax
    je long_match
    movups (%edx), %xmm0                    // 4 to 18 bytes
    movups %xmm0, (%edi)
    movl 16(%edx), %ecx
    movl %ecx, 16(%edi)
    leal 4(%edi,%eax), %edi
    jmp sequence

many_literals:
    movzbl (%esi), %edx
    incl %esi
    addl %edx, %ecx
    cmpl $255, %edx
    je many_literals
    addl %edi, %ecx                         // their end
1:  movups (%esi), %xmm0
    movups %xmm0, (%edi)
    addl $16, %esi
    addl $16, %edi
    cmpl %ecx, %edi
    jb 1b
    subl %ecx, %edi                         // so many too many
    subl %edi, %esi
    movl %ecx, %edi
    cmpl %ebp, %edi
    jb match
    jmpl *%esp

long_match:
    movzbl (%esi), %ecx
    incl %esi
    addl %ecx, %eax
    cmpl $255, %ecx
    je long_match
    leal 4(%edi,%eax), %eax                 // its end
1:  movups (%edx), %xmm0
    movups %xmm0, (%edi)
    addl $16, %edx
    addl $16, %edi
    cmpl %eax, %edi
    jb 1b
    movl %eax, %edi
    jmp sequence

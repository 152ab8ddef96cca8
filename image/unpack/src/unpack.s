// Unpacks an image in place and goes on to its entry: what runs first in a packed image.
//
// It is entered as the image itself would be, by PVH: 32-bit protected mode, flat segments, no paging, no stack, EBX =
// physical address of hvm_start_info, which is left alone. It runs wherever it lies, and uses no memory of its own. The
// first six instructions are filled in by image/pack.
//
// The bytes are a block as image/pack's squeeze.rs describes it. It vouches for this: no match is nearer than 16 bytes, so
// that 16 are copied at once, and the block ends with a run of at least 15 literals, so that only there an end is looked
// for. They lie behind the end of what becomes of them, so far that writing never catches up with reading. In what becomes
// of them calls and jumps say the place that they lead to, as calls.rs there describes; in the end they say how far it is.
// Then all addresses of the image's own in it are moved by one random distance: moves.rs there says how they are found.

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
    movl $0, %edx                           // the list of what looks like an address of its own and is none
    movl $0, %ecx                           // the end of all that it takes

    cld
    movl %cr0, %eax
    andl $~(CR0_EM | CR0_TS), %eax
    orl $CR0_MP, %eax
    movl %eax, %cr0
    movl %cr4, %eax
    orl $CR4_OSFXSR, %eax
    movl %eax, %cr4
    movd %edi, %xmm7
    movd %edx, %xmm6
    movd %ecx, %xmm5

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
    testw %dx, %dx
    js far_match
near_match:
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
    jmp calls

far_match:
    movzbl (%esi), %ecx                     // 8 bits more
    incl %esi
    shll $15, %ecx
    andl $0x7fff, %edx
    orl %ecx, %edx
    jmp near_match

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

calls:
    movd %xmm7, %esi                        // where the image begins
    movl %esi, %edi
    movl $0xfefefefe, %eax
    movd %eax, %xmm1
    pshufd $0, %xmm1, %xmm1
    movl $0xe8e8e8e8, %eax
    movd %eax, %xmm2
    pshufd $0, %xmm2, %xmm2
look:
    leal 36(%edi), %eax
    cmpl %ebp, %eax
    jae done
    movups (%edi), %xmm0
    pand %xmm1, %xmm0
    pcmpeqb %xmm2, %xmm0                    // E8 or E9
    pmovmskb %xmm0, %eax
    addl $16, %edi
    testl %eax, %eax
    jz look
    bsfl %eax, %eax
    leal 5-16(%edi,%eax), %edi              // the end of the first
    movl -4(%edi), %edx                     // the place, if there is one in the image
    movl %edi, %ecx
    subl %esi, %ecx
    movl %ebp, %eax
    subl %esi, %eax
    testl %edx, %edx
    js no_place
    cmpl %eax, %edx
    jae look
    subl %ecx, %edx
    movl %edx, -4(%edi)
    jmp look

no_place:
    addl %edx, %ecx
    js look
    addl %eax, -4(%edi)
    jmp look

done:
    // The distance: by chance, and where the CPU has no dice by its clock, whose lowest bits change most.
    movd %ebx, %xmm4
    movl $1, %eax
    cpuid
    movl %ecx, %edi
    rdtsc
    imull $0x9e3779b1, %eax, %eax
    btl $30, %edi                           // RDRAND
    jnc 2f
    movl $16, %ecx
1:  rdrandl %edx
    jc 1f
    loop 1b
    jmp 2f
1:  xorl %edx, %eax
2:  movd %xmm5, %ebx
    movl $(1 << 30), %ecx                   // all of it stays in the first GiB
    subl %ebx, %ecx
    shrl $21, %ecx
    incl %ecx
    mull %ecx
    shll $21, %edx                          // in steps of 2 MiB

    movd %xmm6, %esi
    movzwl (%esi), %ecx                     // so many are to be moved before the first that is not
    addl $2, %esi
    movd %esp, %xmm3
    movd %xmm7, %esp
    movl %esp, %edi
    subl %esp, %ebx
    movl $0x80808080, %eax
    movd %eax, %xmm1
    pshufd $0, %xmm1, %xmm1
search:
    leal 20(%edi), %eax
    cmpl %ebp, %eax
    ja moved
    movups 3(%edi), %xmm0
    pcmpeqb %xmm1, %xmm0
    pmovmskb %xmm0, %eax
    testl %eax, %eax
    jnz 1f
    addl $16, %edi
    jmp search
1:  bsfl %eax, %eax
    addl %eax, %edi                         // the four bytes here end with 0x80
    movl (%edi), %eax
    subl $0x80000000, %eax
    subl %esp, %eax
    cmpl %ebx, %eax
    ja 1f                                   // no address of the image
    jecxz 2f
    decl %ecx
    addl %edx, (%edi)                       // the lower half of 64 bits too, for nothing is carried
    addl $4, %edi
    jmp search
2:  movzwl (%esi), %ecx                     // one that only looks like it
    addl $2, %esi
1:  incl %edi
    jmp search

moved:
    movd %xmm3, %esp
    movd %xmm4, %ebx
    jmpl *%esp

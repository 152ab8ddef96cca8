# A guest that never rests: it writes to 512 KiB of memory over and over, and says the letters of the alphabet on its
# serial line, in their order and without end. Where it goes on with the next letter, its memory is the one that it had.
# A key puts it to sleep (s), or has it tell that its kernel panicked (p).
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw $0x3fb, %dx            # 8 bits, no parity
    movb $3, %al
    outb %al, %dx
turn:
    movl $40, %ecx
write:
    movw $0x1000, %bx           # a byte of each page from 64 KiB on
page:
    movw %bx, %es
    incb %es:0
    addw $0x100, %bx
    cmpw $0x9000, %bx
    jne page
    decl %ecx
    jnz write
    inb $0x64, %al              # is there a key to read
    testb $1, %al
    jz awake
    inb $0x60, %al
    cmpb $0x1f, %al
    jne not_sleep
    movw $0x604, %dx            # PM1 control: sleep state 3
    movw $0x2400, %ax
    outw %ax, %dx
not_sleep:
    cmpb $0x19, %al
    jne awake
    movw $0x505, %dx            # pvpanic: panicked
    movb $1, %al
    outb %al, %dx
awake:
    movw $0x3fd, %dx
ready:
    inb %dx, %al
    testb $0x20, %al
    jz ready
    movb letter, %al
    movw $0x3f8, %dx
    outb %al, %dx
    incb letter
    cmpb $'Z' + 1, letter
    jne turn
    movb $'A', letter
    jmp turn

letter:
    .byte 'A'
    .org 510
    .word 0xaa55

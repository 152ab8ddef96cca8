# The smallest guest that a hypervisor can talk to: a boot sector for the pc board.
#
# It says R on its serial line when it has begun. It powers off when the power button is pressed, and lets go of a
# device of bus 0 when asked to (saying E), unless it was told by i to ignore such requests; o makes it obey again. It
# answers c with the next letter of the alphabet, which tells whether its memory is the one that it had, and every other
# byte with itself. By s it goes to sleep.
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movb $'A', count
    movb $1, obey
    movw $0x3fb, %dx            # 8 bits, no parity
    movb $3, %al
    outb %al, %dx
    movw $0x602, %dx            # PM1 enable: the power button (ACPI 6.5 section 4.8.3.1.2)
    movw $0x100, %ax
    outw %ax, %dx
    movb $'R', %al
    call say

turn:
    movw $0x600, %dx            # PM1 status
    inw %dx, %ax
    testw $0x100, %ax
    jz no_button
    movw $0x604, %dx            # PM1 control: sleep state 5
    movw $0x2000, %ax
    outw %ax, %dx
no_button:
    cmpb $1, obey
    jne no_eject
    movw $0xae10, %dx           # PCI hotplug of QEMU's PIIX4: select bus 0
    xorl %eax, %eax
    outl %eax, %dx
    movw $0xae04, %dx           # the slots that are asked for
    inl %dx, %eax
    testl %eax, %eax
    jz no_eject
    movw $0xae08, %dx           # let go of them
    outl %eax, %dx
    movb $'E', %al
    call say
no_eject:
    movw $0x3fd, %dx            # is there a byte to read
    inb %dx, %al
    testb $1, %al
    jz turn
    movw $0x3f8, %dx
    inb %dx, %al
    cmpb $'i', %al
    jne not_ignore
    movb $0, obey
not_ignore:
    cmpb $'o', %al
    jne not_obey
    movb $1, obey
not_obey:
    cmpb $'c', %al
    jne not_count
    movb count, %al
    incb count
not_count:
    cmpb $'s', %al
    jne not_sleep
    movw $0x604, %dx            # PM1 control: sleep state 3
    movw $0x2400, %ax
    outw %ax, %dx
    jmp turn
not_sleep:
    call say
    jmp turn

say:
    pushw %ax
    movw $0x3fd, %dx
wait:
    inb %dx, %al
    testb $0x20, %al
    jz wait
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    ret

count:
    .byte 0
obey:
    .byte 0
    .org 510
    .word 0xaa55

/* SPDX-License-Identifier: Apache-2.0 */
/* Corners of the x86-64 interface, one per number. What works must work for us alone. */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void bad_frame(int sig)
{
	uint64_t *frame = __builtin_frame_address(0);

	(void)sig;
	memset(frame + 2, 0xff, 256); /* the saved registers that sigreturn loads */
}

int main(int argc, char **argv)
{
	struct user_desc desc = { .entry_number = 1,
				  .base_addr = 0,
				  .limit = 0xfffff,
				  .seg_32bit = 1,
				  .limit_in_pages = 1 };
	struct robust_list_head head = { .list = { (void *)0x10 }, .futex_offset = -8 };
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static char area[64] __attribute__((aligned(32)));

	switch (argc > 1 ? atoi(argv[1]) : -1) {
	case 0: /* vsyscall: gettimeofday at its fixed address */
		((long (*)(void *, void *))0xffffffffff600000ul)(area, NULL);
		return 0;
	case 1:
		return syscall(SYS_modify_ldt, 1, &desc, sizeof(desc)) == 0 ? printf("HOSTILE") : 0;
	case 2: /* the kernel walks this list at exit */
		syscall(SYS_set_robust_list, &head, sizeof(head));
		return 0;
	case 3:
		syscall(SYS_rseq, (void *)0x1000, 32, 0, 0x53053053);
		return 0;
	case 4: /* ARCH_SET_GS, then a base in the kernel's half */
		return syscall(SYS_arch_prctl, 0x1001, 0xffff888000000000ul) == 0
			       ? printf("HOSTILE")
			       : 0;
	case 5: /* ARCH_SET_CPUID: faulting is ours alone */
		syscall(SYS_arch_prctl, 0x1012, 0);
		return 0;
	case 6: /* permission for AMX state */
		syscall(SYS_arch_prctl, 0x1023, 18);
		return 0;
	case 7:
		signal(SIGUSR1, bad_frame);
		raise(SIGUSR1);
		return 0;
	case 8: /* a non-canonical stack at a call */
		__asm__ volatile("mov $0x8000000000000000, %%rsp\n syscall" ::"a"(SYS_getpid));
		return 0;
	case 9: /* mov to a control register */
		memcpy(page, "\x0f\x22\xe0\xc3", 4);
		((void (*)(void))page)();
		printf("HOSTILE");
		return 0;
	case 10: /* a port */
		__asm__ volatile("outb %%al, $0x80" ::"a"(0));
		printf("HOSTILE");
		return 0;
	case 11: /* mapping the kernel's half */
		return mmap((void *)0xffff800000000000ul, 4096, PROT_READ,
			    MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
			       ? 0
			       : printf("HOSTILE");
	}
	return 64;
}

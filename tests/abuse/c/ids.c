/* SPDX-License-Identifier: Apache-2.0 */
/* Who am I, and who can I become: printed in one line. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	uid_t r, e, s;
	gid_t rg, eg, sg;

	memset(data, 0xff, sizeof(data));
	getresuid(&r, &e, &s);
	getresgid(&rg, &eg, &sg);
	syscall(SYS_capget, &header, data);
	printf("uid %u %u %u gid %u %u %u caps %x %x %x ", r, e, s, rg, eg, sg,
	       data[0].effective | data[1].effective, data[0].permitted | data[1].permitted,
	       data[0].inheritable | data[1].inheritable);
	printf("setuid(0) %s\n", setuid(0) == 0 ? "done" : strerrorname_np(errno));
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/confine.h"

#include "base/own.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int drop_caps(struct err *e)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0 }, { 0 } };

	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			return err_sys(e, "drop capability %d", cap);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, data) < 0)
		return err_sys(e, "drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, "no_new_privs");
	return 0;
}

static int set_rlimits(const struct confine_limits *limits, struct err *e)
{
	/*
	 * SECURITY: RLIMIT_NPROC counts the processes and threads of a user within a user
	 * namespace, and every sandbox has a namespace and host ids of its own: the sum over the
	 * sandbox stays bounded on machines without a pids controller too, and no sandbox draws on
	 * another's account.
	 */
	const struct {
		int resource;
		rlim_t max;
	} rows[] = {
		/* SECURITY: 1 and not 0: where core_pattern is a pipe (systemd-coredump, apport)
		 * the kernel ignores 0 and starts that program as root for each crash in here; 1
		 * alone says that there is to be no dump at all (core(5)). */
		{ RLIMIT_CORE, 1 },
		{ RLIMIT_SIGPENDING, 4096 },
		{ RLIMIT_MSGQUEUE, 0 },
		{ RLIMIT_MEMLOCK, 8 << 20 },
		{ RLIMIT_NOFILE, limits->open_files },
		{ RLIMIT_NPROC, limits->pids },
		/* SECURITY: tells what the pool's document says and its caller may know; the
		 * memory cgroup keeps the limit, whatever becomes of this. */
		{ RLIMIT_RSS, limits->memory_bytes },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rlimit lim;

		getrlimit((__rlimit_resource_t)rows[i].resource, &lim);
		if (lim.rlim_max > rows[i].max)
			lim.rlim_max = rows[i].max;
		lim.rlim_cur = lim.rlim_max;
		if (setrlimit((__rlimit_resource_t)rows[i].resource, &lim) < 0)
			return err_sys(e, "set resource limit");
	}
	return 0;
}

int confine_become_session(const struct confine_limits *limits, struct err *e)
{
	if (set_rlimits(limits, e) < 0)
		return -1;
	if (setgroups(0, NULL) < 0 || setresgid(CONFINE_UID, CONFINE_UID, CONFINE_UID) < 0)
		return err_sys(e, "become the session group");
	/* SECURITY: uid 0 means nothing from here on; without the set-uid fix-up the capabilities
	 * stay until drop_caps(), which needs CAP_SETPCAP to empty the bounding set. All bits are
	 * locked. */
	if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
					     SECBIT_NO_SETUID_FIXUP_LOCKED |
					     SECBIT_KEEP_CAPS_LOCKED) < 0)
		return err_sys(e, "securebits");
	if (setresuid(CONFINE_UID, CONFINE_UID, CONFINE_UID) < 0)
		return err_sys(e, "become the session user");
	return drop_caps(e);
}

int confine_install_filter(int fd, int *ret_listener, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(struct sock_filter) ||
	    st.st_size % (off_t)sizeof(struct sock_filter) != 0)
		return err_set(e, ERR_INTERNAL, "seccomp filter has a wrong size");
	void *code = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

	if (code == MAP_FAILED)
		return err_sys(e, "map seccomp filter");
	struct sock_fprog prog = { .len = (unsigned short)((size_t)st.st_size /
							   sizeof(struct sock_filter)),
				   .filter = code };
	long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			  ret_listener ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0, &prog);

	munmap(code, (size_t)st.st_size);
	if (rc < 0)
		return err_sys(e, "install seccomp filter");
	if (ret_listener)
		*ret_listener = (int)rc;
	return 0;
}

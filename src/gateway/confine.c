/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "base/sanitized.h"
#include "gateway/gateway.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int drop_rights(uid_t uid, struct err *e)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0 }, { 0 } };
	const struct rlimit no_core = { 0, 0 };

	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			return err_sys(e, "drop capability %d", cap);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return err_sys(e, "set resource limit");
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return err_sys(e, "become user %u", uid);
	if (syscall(SYS_capset, &header, none) < 0)
		return err_sys(e, "drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, "no_new_privs");
	return 0;
}

/*
 * SECURITY: what the loop calls, and nothing else; any other call ends the process. Who takes this
 * process over can therefore
 *  - not make, open or connect anything, not map or run other code, not start or signal a process;
 *  - send on the sockets it was born with: answers to sandboxes through the one bound to
 *    GATEWAY_ADDRESS, and, because elsewhere no destination may be named, packets to the resolvers'
 *    port 53 and records to the daemon, which believes none of them. Netlink sockets are below the
 *    sockets that may be sent on, and would check capabilities that are gone;
 *  - write to the log.
 * It sees and can forge the DNS of connected sandboxes, which the resolvers can as well.
 */
static int add_rules(scmp_filter_ctx ctx)
{
	static const int calls[] = {
		SCMP_SYS(accept4),    SCMP_SYS(clock_gettime), SCMP_SYS(close),
		SCMP_SYS(epoll_ctl),  SCMP_SYS(epoll_pwait),   SCMP_SYS(epoll_wait),
		SCMP_SYS(exit_group), SCMP_SYS(getpid),        SCMP_SYS(getrandom),
		SCMP_SYS(recvfrom),   SCMP_SYS(recvmsg),       SCMP_SYS(restart_syscall),
	};
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, STDERR_FILENO));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, GATEWAY_UDP_FD));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 2,
			       SCMP_A0_32(SCMP_CMP_GE, GATEWAY_RECORDS_FD),
			       SCMP_A4(SCMP_CMP_EQ, 0));
	return rc;
}

static int load_filter(struct err *e)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);

	if (!ctx)
		return err_set(e, ERR_NOMEM, "seccomp filter");
	int rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

	if (rc == 0)
		rc = add_rules(ctx);
	if (rc == 0)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	return rc ? err_set(e, ERR_INTERNAL, "seccomp filter: %d", rc) : 0;
}

int gateway_confine(uid_t uid, struct err *e)
{
	pid_t parent = getppid();

	if (drop_rights(uid, e) < 0)
		return -1;
	/* Changing the user resets both. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return err_sys(e, "prctl");
	if (getppid() != parent)
		return err_set(e, ERR_UNAVAILABLE, "the parent is gone");
	return SANITIZED ? 0 : load_filter(e);
}

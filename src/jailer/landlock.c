/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/landlock.h"

#include "base/own.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than Debian 12's headers (Linux 6.2, 6.10, 6.12). */
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ull << 14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ull << 15)
#endif
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ull << 0)
#define SCOPE_SIGNAL               (1ull << 1)
/* Neither this domain's denials nor those of what is nested in it (Linux 6.15). */
#define LOG_NOTHING (1u << 0 | 1u << 2)

#define FS_READ                                                                                    \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_WRITE (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE)

struct ruleset_attr {
	uint64_t access_fs;
	uint64_t access_net;
	uint64_t scoped;
};

int landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? 0 : (int)abi;
}

/* The rights that this version knows; rules and rulesets may name no others. */
static uint64_t known_rights(int abi)
{
	uint64_t rights = (1ull << 13) - 1;

	if (abi >= 2)
		rights |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
	if (abi >= 5)
		rights |= LANDLOCK_ACCESS_FS_IOCTL_DEV;
	return rights;
}

static int allow(int ruleset, const char *path, uint64_t rights, struct err *e)
{
	OWNED_FD int fd = open(path, O_PATH | O_CLOEXEC);
	struct landlock_path_beneath_attr rule = { .allowed_access = rights, .parent_fd = fd };

	if (fd < 0 ||
	    syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return err_sys(e, "landlock rule for %s", path);
	return 0;
}

int landlock_confine(struct err *e)
{
	static const char *const writable[] = { "/tmp", "/home/session", "/mnt/data", "/dev/shm" };
	int abi = landlock_abi();
	uint64_t all = known_rights(abi);
	struct ruleset_attr attr = { .access_fs = all };
	size_t size = sizeof(attr.access_fs);

	if (!abi)
		return 0;
	if (abi >= 6) {
		attr.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
		size = sizeof(attr);
	}
	OWNED_FD int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);

	if (ruleset < 0)
		return err_sys(e, "landlock ruleset");
	/* SECURITY: no write, no new name, no device but below these. Renames and links between
	 * directories (REFER) stay possible where files may be made. */
	if (allow(ruleset, "/", FS_READ & all, e) < 0 ||
	    allow(ruleset, "/proc", (FS_READ | FS_WRITE) & all, e) < 0 ||
	    allow(ruleset, "/dev", (FS_READ | FS_WRITE | LANDLOCK_ACCESS_FS_IOCTL_DEV) & all, e) <
		    0)
		return -1;
	for (size_t i = 0; i < ARRAY_LEN(writable); i++)
		if (allow(ruleset, writable[i],
			  all & ~(uint64_t)(LANDLOCK_ACCESS_FS_MAKE_CHAR |
					    LANDLOCK_ACCESS_FS_MAKE_BLOCK),
			  e) < 0)
			return -1;
	/* SECURITY: denials are the session's own affair; as audit records they would fill the
	 * host's log at the speed of system calls. */
	if (syscall(SYS_landlock_restrict_self, ruleset, abi >= 7 ? LOG_NOTHING : 0) < 0)
		return err_sys(e, "landlock");
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fdio.h"
#include "base/own.h"
#include "jailer/jailer.h"
#include "jailer/seccomp.h"

#include "jailer/confine.h"
#include "jailer/jail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SID   "0123456789abcdef0123456789abcdef"
#define IMAGE SID SID

/* ---- opcode_request_ok ---- */

static struct jailer_request request(uint16_t op)
{
	struct jailer_request rq = {
		.version = JAILER_PROTO_VERSION,
		.op = op,
		.tag = 7,
		.sid = SID,
		.image = IMAGE,
		.limits = { .memory_bytes = 1u << 30,
			    .data_bytes = 1u << 28,
			    .tmp_bytes = 1u << 26,
			    .inodes = 100000,
			    .pids = 256,
			    .cpu_millis = 2000,
			    .open_files = 4096 },
	};

	return rq;
}

static bool ok(const struct jailer_request *rq)
{
	struct err e = ERR_INIT;
	bool accepted = opcode_request_ok(rq, sizeof(*rq), &e);

	/* A refusal says why, and an acceptance has nothing to say. */
	assert_int_equal(e.code, accepted ? ERR_NONE : ERR_PROTOCOL);
	assert_int_equal(e.msg[0] != '\0', !accepted);
	return accepted;
}

static const struct {
	uint16_t op;
	bool sid, image, limits; /* which fields it uses */
} ops[] = {
	{ JAILER_CREATE, true, true, true },    { JAILER_START_KERNEL, true, false, false },
	{ JAILER_DESTROY, true, false, false }, { JAILER_LIST, true, false, false },
	{ JAILER_STATS, true, false, false },   { JAILER_IMAGE, false, true, false },
	{ JAILER_PING, false, false, false },   { JAILER_NETWORK, true, false, false },
};

static void test_request_shape(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		struct jailer_request rq = request(ops[i].op);
		char bytes[sizeof(rq) + 1] = { 0 };
		struct err e = ERR_INIT;

		assert_true(ok(&rq));
		memcpy(bytes, &rq, sizeof(rq));
		for (size_t len = 0; len < sizeof(rq); len++) {
			OWNED_MEM char *cut = malloc(len ? len : 1);

			memcpy(cut, bytes, len);
			assert_false(opcode_request_ok(cut, len, &e));
		}
		assert_false(opcode_request_ok(bytes, sizeof(rq) + 1, &e));
		rq.version = JAILER_PROTO_VERSION + 1;
		assert_false(ok(&rq));
		rq.version = 0;
		assert_false(ok(&rq));
	}
}

/* It becomes a word that is compared with those of the image's recipe; nothing else may pass. */
static void test_language(void **state)
{
	static const struct {
		char text[JAILER_LANGUAGE_SIZE + 1];
		bool ok;
	} rows[] = {
		{ "", true },
		{ "python", true },
		{ "terminal", true },
		{ "node-18", true },
		{ "abcdefghijklmno", true },
		{ "abcdefghijklmnop", false },
		{ "Python", false },
		{ "a b", false },
		{ "../x", false },
		{ "a\nb", false },
		{ "@zygote", false },
		{ "a_b", false },
		{ "caf\xc3\xa9", false },
		{ "a\0b", false },
		{ "\0a", false },
		{ "python\0\0\0\0\0\0\0\0\0x", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct jailer_request rq = request(JAILER_START_KERNEL);

		memcpy(rq.language, rows[i].text, sizeof(rq.language));
		assert_int_equal(ok(&rq), rows[i].ok);
		rq.op = JAILER_PING; /* does not look at it */
		assert_true(ok(&rq));
	}
}

/* Ids that are not 32 (64) lower-case hexadecimal digits and a NUL. */
static void check_names(uint16_t op, char *name, struct jailer_request *rq, size_t digits,
			bool used)
{
	static const char wrong[] = { 'A', 'F', 'g', '/', '.', ':', '`', ' ', '\0', '@', -1 };

	for (size_t at = 0; at < digits; at += digits / 2 - 1) {
		for (size_t i = 0; i < sizeof(wrong); i++) {
			char kept = name[at];

			name[at] = wrong[i];
			/* LIST of an empty id: all of them. */
			bool all = op == JAILER_LIST && at == 0 && !wrong[i];

			if (ok(rq) == (used && !all))
				fail_msg("op %u: byte %d at %zu", op, wrong[i], at);
			name[at] = kept;
		}
	}
	name[digits] = '0'; /* unterminated */
	if (ok(rq) == used)
		fail_msg("op %u: unterminated", op);
	name[digits] = '\0';
}

static void test_request_names(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		struct jailer_request rq = request(ops[i].op);

		check_names(rq.op, rq.sid, &rq, JAILER_SID_SIZE - 1, ops[i].sid);
		check_names(rq.op, rq.image, &rq, JAILER_IMAGE_SIZE - 1, ops[i].image);
		assert_true(ok(&rq));
	}
}

static void make_jailer(struct jailer *j)
{
	memset(j, 0, sizeof(*j));
	map_init(&j->sandboxes);
	list_init(&j->zygotes);
	list_init(&j->pending);
	list_init(&j->busy);
}

/* The one reply to a request. */
static struct jailer_reply dispatch_to(struct jailer *j, const struct jailer_request *rq)
{
	struct jailer_reply reply = { 0 };
	int pair[2];
	int kept = fcntl(JAILER_SOCK_FD, F_DUPFD_CLOEXEC, 10);

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	OWNED_FD int far = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
	int near = fcntl(pair[0], F_DUPFD_CLOEXEC, 10);

	close(pair[0]);
	close(pair[1]);
	assert_int_equal(dup2(near, JAILER_SOCK_FD), JAILER_SOCK_FD);
	close(near);
	opcode_dispatch(j, rq);
	if (recv(far, &reply, sizeof(reply), MSG_DONTWAIT) != sizeof(reply))
		fail_msg("op %u: no reply", rq->op);
	/* One reply for one request. */
	char more;

	assert_int_equal(recv(far, &more, 1, MSG_DONTWAIT), -1);
	if (kept >= 0)
		dup2(kept, JAILER_SOCK_FD);
	else
		close(JAILER_SOCK_FD);
	close_fd(&kept);
	assert_int_equal(reply.version, JAILER_PROTO_VERSION);
	assert_int_equal(reply.op, rq->op);
	assert_int_equal(reply.tag, 7);
	return reply;
}

/* To a jailer without sandboxes. */
static struct jailer_reply dispatch(uint16_t op)
{
	static struct jailer j;
	struct jailer_request rq = request(op);

	make_jailer(&j);
	return dispatch_to(&j, &rq);
}

/* Page after page, every sandbox comes once, in order; the dying do not. */
static void test_list(void **state)
{
	enum { COUNT = 2 * JAILER_LIST_MAX + 2 };
	static struct jailer j;
	static struct sandbox boxes[COUNT];
	static const int want[] = { JAILER_LIST_MAX, JAILER_LIST_MAX, 1 };
	struct jailer_request rq = request(JAILER_LIST);
	char last[JAILER_SID_SIZE] = "";

	(void)state;
	make_jailer(&j);
	for (int i = 0; i < COUNT; i++) {
		snprintf(boxes[i].rec.sid, JAILER_SID_SIZE, "%032x", (i * 37) % COUNT);
		boxes[i].dying = (i * 37) % COUNT == 5;
		map_put(&j.sandboxes, &boxes[i].node, str_from(boxes[i].rec.sid));
	}
	for (size_t page = 0; page < ARRAY_LEN(want); page++) {
		memcpy(rq.sid, last, sizeof(last));
		struct jailer_reply reply = dispatch_to(&j, &rq);

		assert_int_equal(reply.list_count, want[page]);
		assert_int_equal(reply.list_more != 0, page < 2);
		for (uint32_t i = 0; i < reply.list_count; i++) {
			assert_true(strcmp(reply.sids[i], last) > 0);
			assert_int_not_equal(strtoul(reply.sids[i], NULL, 16), 5);
			memcpy(last, reply.sids[i], sizeof(last));
		}
	}
	map_done(&j.sandboxes);
}

static void test_dispatch(void **state)
{
	static const uint16_t unknown[] = { 0, JAILER_REFUSED + 1, JAILER_RESTARTED, UINT16_MAX };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
		assert_int_equal(dispatch(unknown[i]).err.code, ERR_PROTOCOL);
	assert_int_equal(dispatch(JAILER_PING).err.code, ERR_NONE);
	struct jailer_reply list = dispatch(JAILER_LIST);

	assert_int_equal(list.err.code, ERR_NONE);
	assert_int_equal(list.list_count, 0);
	assert_int_equal(list.list_more, 0);
	/* Of a sandbox that is not there: gone already, or an error that says so. */
	assert_int_equal(dispatch(JAILER_DESTROY).err.code, ERR_NONE);
	assert_int_not_equal(dispatch(JAILER_STATS).err.code, ERR_NONE);
	assert_int_not_equal(dispatch(JAILER_START_KERNEL).err.code, ERR_NONE);
}

static void test_request_limits(void **state)
{
	static const struct {
		size_t offset;
		bool wide;
		uint64_t min, max;
	} rows[] = {
#define LIMIT(field, wide) offsetof(struct jailer_request, limits.field), wide
		{ LIMIT(memory_bytes, true), 16u << 20, 1ull << 40 },
		{ LIMIT(data_bytes, true), 1u << 20, 1ull << 40 },
		{ LIMIT(tmp_bytes, true), 1u << 20, 1ull << 40 },
		{ LIMIT(inodes, false), 64, 1u << 28 },
		{ LIMIT(pids, false), 8, 1000000 },
		{ LIMIT(cpu_millis, false), 0, 1000000 },
		{ LIMIT(open_files, false), 64, 1048576 },
#undef LIMIT
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const uint64_t values[] = { rows[i].min, rows[i].max, rows[i].min - 1,
					    rows[i].max + 1,
					    rows[i].wide ? UINT64_MAX : UINT32_MAX };

		for (size_t v = 0; v < ARRAY_LEN(values); v++) {
			struct jailer_request rq = request(JAILER_CREATE);
			char *field = (char *)&rq + rows[i].offset;

			if (rows[i].wide)
				memcpy(field, &values[v], 8);
			else
				memcpy(field, &(uint32_t){ (uint32_t)values[v] }, 4);
			if (ok(&rq) != (v < 2))
				fail_msg("limit %zu, value %zu", i, v);
			rq.op = JAILER_START_KERNEL; /* has no limits to look at */
			assert_true(ok(&rq));
		}
	}
}

static void test_request_memory(void **state)
{
	static const uint64_t good[] = { 0, 16u << 20, 1ull << 40 };
	static const uint64_t bad[] = { 1, (16u << 20) - 1, (1ull << 40) + 1, UINT64_MAX };
	struct jailer_request rq = request(JAILER_MEMORY);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		rq.limits.memory_bytes = good[i];
		assert_true(ok(&rq));
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		rq.limits.memory_bytes = bad[i];
		assert_false(ok(&rq));
	}
}

/* ---- records ---- */

static char dir[64];
static int dfd = -1;

static void remove_tree(const char *path)
{
	DIR *d = opendir(path);

	for (struct dirent *ent; d && (ent = readdir(d));)
		unlinkat(dirfd(d), ent->d_name, 0);
	if (d)
		closedir(d);
	rmdir(path);
}

static int setup_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/bivouac-jailer-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dfd < 0 ? -1 : 0;
}

static int teardown_dir(void **state)
{
	(void)state;
	close_fd(&dfd);
	remove_tree(dir);
	return 0;
}

struct seen {
	struct record last;
	int count;
	int broken;
};

static void see(const struct record *r, void *arg)
{
	struct seen *s = arg;

	s->last = *r;
	s->count++;
	s->broken += r->pid == 0;
}

static struct seen read_records(void)
{
	struct seen s = { 0 };
	struct err e = ERR_INIT;

	if (record_each(dfd, see, &s, &e) < 0)
		fail_msg("%s", e.msg);
	return s;
}

static void test_records(void **state)
{
	struct record r = { .sid = SID,
			    .image = IMAGE,
			    .slot = RECORD_SLOTS - 1,
			    .pid = 4711,
			    .start_time = 18446744073709551615ull,
			    .limits = { 1048576, 1000000, 1ull << 40 } };
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(read_records().count, 0);
	assert_int_equal(record_write(dfd, &r, &e), 0);
	struct seen s = read_records();

	assert_int_equal(s.count, 1);
	assert_string_equal(s.last.sid, SID);
	assert_string_equal(s.last.image, IMAGE);
	assert_int_equal(s.last.slot, RECORD_SLOTS - 1);
	assert_int_equal(s.last.pid, 4711);
	assert_true(s.last.start_time == r.start_time);
	assert_int_equal(s.last.limits.open_files, 1048576);
	assert_int_equal(s.last.limits.pids, 1000000);
	assert_true(s.last.limits.memory_bytes == 1ull << 40);
	r.slot = 0;
	assert_int_equal(record_write(dfd, &r, &e), 0); /* replaces */
	s = read_records();
	assert_int_equal(s.count, 1);
	assert_int_equal(s.last.slot, 0);
	record_remove(dfd, SID);
	record_remove(dfd, SID);
	assert_int_equal(read_records().count, 0);
	assert_int_equal(record_each(-1, see, &s, &e), -1);
	assert_int_equal(record_write(-1, &r, &e), -1);
}

static void test_records_corrupt(void **state)
{
	static const char *const texts[] = {
		"",
		"\n",
		"2",
		"2 5 4711 99 4096 256 99999999",           /* no image */
		"2 5 4711 99 " IMAGE,                      /* no limits */
		"2 5 4711 99 " IMAGE " 4096",              /* not all of them */
		"1 5 4711 99 " IMAGE " 4096 256 99999999", /* another version */
		"2 x 4711 99 " IMAGE " 4096 256 99999999", /* no number */
		"2 5 1 99 " IMAGE " 4096 256 99999999",    /* init is nobody's sandbox */
		"2 5 0 99 " IMAGE " 4096 256 99999999",
		"2 5 -4711 99 " IMAGE
		" 4096 256 99999999", /* kill(-pid) would be a process group */
		"2 16384 4711 99 " IMAGE " 4096 256 99999999", /* RECORD_SLOTS */
		"2 4294967295 4711 99 " IMAGE " 4096 256 99999999",
	};
	char name[] = SID;
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		name[0] = (char)('a' + i % 6);
		name[1] = (char)('0' + i / 6);
		assert_int_equal(fd_write_file(dfd, name, texts[i], strlen(texts[i]), 0600, &e), 0);
		struct seen s = read_records();

		if (s.broken != s.count || s.count != (int)i + 1)
			fail_msg("'%s': %d of %d are seen as broken", texts[i], s.broken, s.count);
	}
	/* Longer than any record, and a directory. */
	char big[600];

	memset(big, '1', sizeof(big));
	name[0] = name[1] = 'e';
	assert_int_equal(fd_write_file(dfd, name, big, sizeof(big), 0600, &e), 0);
	struct seen s = read_records();

	assert_int_equal(s.broken, s.count);
}

static void test_records_leftovers(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	/* What a jailer that was killed while writing leaves is taken away. */
	assert_int_equal(fd_write_file(dfd, SID ".new", "1 5", 3, 0600, &e), 0);
	assert_int_equal(read_records().count, 0);
	assert_int_equal(faccessat(dfd, SID ".new", F_OK, 0), -1);
}

/* The start time, 0 if there is no such process; never an error. */
static unsigned long long start_time(pid_t pid)
{
	unsigned long long start = 0;
	struct err e = ERR_INIT;
	int rc = record_start_time(pid, &start, &e);

	assert_true(rc == 0 || rc == 1);
	return rc ? start : 0;
}

static void test_start_time(void **state)
{
	unsigned long long self = start_time(getpid());
	int gate[2];
	int status;

	(void)state;
	assert_true(self > 0);
	assert_true(self == start_time(getpid()));
	assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
	pid_t pid = fork();

	if (pid == 0) {
		char byte;

		/* A name that would confuse a reader of /proc/pid/stat. */
		prctl(PR_SET_NAME, "x) Z 1 (");
		close(gate[1]);
		_exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
	}
	assert_true(pid > 0);
	assert_true(start_time(pid) >= self);
	close(gate[1]);
	siginfo_t info;

	/* A zombie is no living process. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_true(start_time(pid) == 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(start_time(pid) == 0);
	assert_true(start_time(0) == 0);
	close(gate[0]);
}

static void test_uid_blocks(void **state)
{
	const uid_t block = RECORD_SLOTS * JAIL_IDS_PER_SLOT;
	char blocks[100];
	char run[3][100];
	uid_t uid[3];
	uid_t again;
	struct err e = ERR_INIT;

	(void)state;
	snprintf(blocks, sizeof(blocks), "%s/uids", dir);
	for (int i = 0; i < 3; i++) {
		snprintf(run[i], sizeof(run[i]), "%s/run%d", dir, i);
		assert_int_equal(mkdir(run[i], 0700), 0);
		assert_int_equal(record_uid_block(blocks, run[i], &uid[i], &e), 0);
		assert_int_equal(uid[i] % 65536, 0);
		/* Blocks whose ids run processes of other daemons are left out. */
		assert_true(i == 0 || (uid[i] > uid[i - 1] && (uid[i] - uid[i - 1]) % block == 0));
	}
	assert_int_equal(record_uid_block(blocks, run[1], &again, &e), 0);
	assert_int_equal(again, uid[1]);
	/* Released, or its run directory gone: the block is the next one's. */
	record_uid_release(blocks, run[0]);
	assert_int_equal(record_uid_block(blocks, run[0], &again, &e), 0);
	assert_int_equal(again, uid[0]);
	assert_int_equal(rmdir(run[1]), 0);
	snprintf(run[1], sizeof(run[1]), "%s/other", dir);
	assert_int_equal(mkdir(run[1], 0700), 0);
	assert_int_equal(record_uid_block(blocks, run[1], &again, &e), 0);
	assert_int_equal(again, uid[1]);
	/* A directory that still stands keeps its block, however low the number. */
	record_uid_release(blocks, run[0]);
	assert_int_equal(record_uid_block(blocks, run[2], &again, &e), 0);
	assert_int_equal(again, uid[2]);
	for (int i = 0; i < 3; i++)
		rmdir(run[i]);
	remove_tree(blocks);
}

/* ---- cgroups ---- */

static unsigned long long number_in(int at, const char *file)
{
	struct err e = ERR_INIT;
	struct buf text;
	unsigned long long v;

	buf_init(&text, 4096);
	if (fd_read_file(at, file, 4096, &text, &e) < 0)
		fail_msg("%s", e.msg);
	v = strtoull(text.ptr, NULL, 10);
	buf_done(&text);
	return v;
}

static void check_limits(const struct cgroup_layout *l)
{
	int at = l->ctrl[CGROUP_MEMORY].parent_dfd;

	if (at >= 0)
		assert_int_equal(number_in(at, l->ctrl[CGROUP_MEMORY].version == 2
						       ? SID "/memory.max"
						       : SID "/memory.limit_in_bytes"),
				 64u << 20);
	at = l->ctrl[CGROUP_PIDS].parent_dfd;
	if (at >= 0)
		assert_int_equal(number_in(at, SID "/pids.max"), 17);
	at = l->ctrl[CGROUP_CPU].parent_dfd;
	if (at >= 0)
		assert_int_equal(number_in(at, l->ctrl[CGROUP_CPU].version == 2
						       ? SID "/kernel/cpu.max"
						       : SID "/cpu.cfs_quota_us"),
				 10000); /* half a core of 20 ms */
	if (at >= 0)
		assert_int_equal(number_in(at, l->ctrl[CGROUP_CPU].version == 2 ? SID "/cpu.weight"
										: SID
						       "/cpu.shares"),
				 l->ctrl[CGROUP_CPU].version == 2 ? 50 : 512);
}

static void count_sid(const char *sid, void *arg)
{
	if (strcmp(sid, SID) == 0)
		++*(int *)arg;
}

static pid_t waiting_child(int gate[2])
{
	pid_t pid = fork();

	if (pid == 0) {
		char byte;

		close(gate[1]);
		_exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
	}
	return pid;
}

static int open_instance(struct cgroup_layout *l)
{
	struct err e = ERR_INIT;
	char instance[32];

	if (geteuid() != 0) {
		print_message("# not root\n");
		skip();
	}
	snprintf(instance, sizeof(instance), "test%d", (int)getpid());
	if (cgroup_open(l, instance, &e) < 0)
		fail_msg("%s", e.msg);
	int have = 0;

	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++)
		have += l->ctrl[c].parent_dfd >= 0;
	/* What is missing is named. */
	assert_int_equal(have == CGROUP_CONTROLLERS, l->missing[0] == '\0');
	if (!have) {
		print_message("# no cgroup controller here: %s\n", l->missing);
		cgroup_close(l);
		skip();
	}
	return have;
}

static void test_cgroups(void **state)
{
	const struct jailer_limits limits = { .memory_bytes = 64u << 20,
					      .pids = 17,
					      .cpu_millis = 500 };
	struct cgroup_layout l;
	struct err e = ERR_INIT;
	struct jailer_stats stats = { 0 };
	int have = open_instance(&l);
	int fds[CGROUP_CONTROLLERS];
	int gate[2];
	int seen = 0;
	int status;

	(void)state;
	assert_int_equal(cgroup_remove(&l, SID, &e), 0); /* of none: nothing to do */
	if (cgroup_create(&l, SID, &limits, &e) < 0)
		fail_msg("%s", e.msg);
	check_limits(&l);
	cgroup_each(&l, count_sid, &seen);
	assert_int_equal(seen, have);
	assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
	pid_t pid = waiting_child(gate);

	assert_true(pid > 0);
	assert_int_equal(cgroup_attach_agent(&l, SID, pid, &e), 0);
	assert_int_equal(cgroup_stats(&l, SID, &stats, &e), 0);
	if (l.ctrl[CGROUP_PIDS].parent_dfd >= 0)
		assert_int_equal(stats.pids, 1);
	assert_int_equal(stats.oom_kills, 0);
	OWNED_FD int oom = cgroup_oom_fd(&l, SID);

	if (l.ctrl[CGROUP_MEMORY].parent_dfd >= 0) {
		char text[512] = "";

		assert_true(read(oom, text, sizeof(text) - 1) > 0);
		assert_non_null(strstr(text, "oom_kill "));
	}
	int count = cgroup_kernel_fds(&l, SID, fds, &e);

	assert_in_range(count, 1, CGROUP_CONTROLLERS);
	for (int i = 0; i < count; i++)
		close(fds[i]);
	assert_int_equal(cgroup_remove(&l, SID, &e), 1); /* busy */
	cgroup_kill(&l, SID);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	int rc = 1;

	for (int i = 0; rc == 1 && i < 1000; i++) {
		rc = cgroup_remove(&l, SID, &e);
		if (rc == 1)
			usleep(1000); /* the kernel lets go of the dead a moment later */
	}
	assert_int_equal(rc, 0);
	seen = 0;
	cgroup_each(&l, count_sid, &seen);
	assert_int_equal(seen, 0);
	assert_int_equal(cgroup_kernel_fds(&l, SID, fds, &e), -1);
	close(gate[0]);
	close(gate[1]);
	cgroup_close(&l);
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++)
		assert_int_equal(l.ctrl[c].parent_dfd, -1);
}

static void remove_sandbox(const struct cgroup_layout *l)
{
	struct err e = ERR_INIT;
	int rc = 1;

	cgroup_kill(l, SID);
	for (int i = 0; rc == 1 && i < 2000; i++) {
		rc = cgroup_remove(l, SID, &e);
		if (rc == 1)
			usleep(1000);
	}
	assert_int_equal(rc, 0);
}

/* A child in the sandbox's cgroups that holds `size` bytes of written memory. */
static pid_t holder(const struct cgroup_layout *l, size_t size)
{
	int ready[2];
	char byte;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();

	if (pid == 0) {
		int fds[CGROUP_CONTROLLERS];
		struct err e = ERR_INIT;
		int count = cgroup_kernel_fds(l, SID, fds, &e);

		for (int i = 0; i < count; i++)
			if (write(fds[i], "0", 1) != 1)
				_exit(100);
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		if (p == MAP_FAILED)
			_exit(101);
		memset(p, 1, size);
		(void)!write(ready[1], "r", 1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void assert_memory_limit(const struct cgroup_layout *l, unsigned long long want)
{
	int at = l->ctrl[CGROUP_MEMORY].parent_dfd;

	if (l->ctrl[CGROUP_MEMORY].version == 2) {
		assert_int_equal(number_in(at, SID "/memory.max"), want);
		return;
	}
	assert_int_equal(number_in(at, SID "/memory.limit_in_bytes"), want);
	if (faccessat(at, SID "/memory.memsw.limit_in_bytes", F_OK, 0) == 0)
		assert_int_equal(number_in(at, SID "/memory.memsw.limit_in_bytes"), want);
}

/* Lowered, raised, and refused without a trace or a victim when too much is held. */
static void test_cgroup_set_memory(void **state)
{
	const struct jailer_limits limits = { .memory_bytes = 128u << 20, .pids = 8 };
	struct cgroup_layout l;
	struct err e = ERR_INIT;

	(void)state;
	open_instance(&l);
	assert_int_equal(cgroup_create(&l, SID, &limits, &e), 0);
	if (l.ctrl[CGROUP_MEMORY].parent_dfd < 0) {
		assert_int_equal(cgroup_set_memory(&l, SID, 64u << 20, &e), -1);
		assert_int_equal(e.code, ERR_NOT_SUPPORTED);
		remove_sandbox(&l);
		cgroup_close(&l);
		return;
	}
	assert_int_equal(cgroup_set_memory(&l, SID, 32u << 20, &e), 0);
	assert_memory_limit(&l, 32u << 20);
	assert_int_equal(cgroup_set_memory(&l, SID, 128u << 20, &e), 0);
	assert_memory_limit(&l, 128u << 20);
	pid_t pid = holder(&l, 48u << 20);
	int status;

	assert_int_equal(cgroup_set_memory(&l, SID, 32u << 20, &e), -1);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_non_null(strstr(e.msg, "32 MiB"));
	assert_memory_limit(&l, 128u << 20);
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	assert_int_equal(cgroup_set_memory(&l, SID, 64u << 20, &e), 0);
	assert_memory_limit(&l, 64u << 20);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	remove_sandbox(&l);
	assert_int_equal(cgroup_set_memory(&l, SID, 64u << 20, &e), -1);
	cgroup_close(&l);
}

/* A member cannot have more processes than pids.max says. */
static void test_cgroup_pids_enforced(void **state)
{
	const struct jailer_limits limits = { .memory_bytes = 64u << 20, .pids = 8 };
	struct cgroup_layout l;
	struct err e = ERR_INIT;
	int status;

	(void)state;
	open_instance(&l);
	assert_int_equal(cgroup_create(&l, SID, &limits, &e), 0);
	pid_t pid = fork();

	if (pid == 0) {
		int fds[CGROUP_CONTROLLERS];
		int count = cgroup_kernel_fds(&l, SID, fds, &e);
		int forks = 0;

		for (int i = 0; i < count; i++)
			if (write(fds[i], "0", 1) != 1)
				_exit(100);
		while (forks < 50) {
			pid_t child = fork();

			if (child == 0)
				pause();
			if (child < 0)
				break;
			forks++;
		}
		_exit(forks);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	bool limited = l.ctrl[CGROUP_PIDS].parent_dfd >= 0;

	remove_sandbox(&l);
	cgroup_close(&l);
	assert_true(WIFEXITED(status));
	if (limited)
		assert_int_equal(WEXITSTATUS(status), 7);
}

/* ---- seccomp ---- */

enum { ALLOWED = 0, REFUSED = -1 };

/* Runs in the child, under the filter; only bare system calls. */
static const struct probe {
	const char *name;
	long nr;
	long arg[6];
	int want; /* errno; REFUSED: ENOSYS, EPERM or EAFNOSUPPORT; ALLOWED: anything else */
} probes[] = {
	{ "getpid", SYS_getpid, { 0 }, ALLOWED },
	{ "close", SYS_close, { -1 }, ALLOWED },
	{ "clock_getres", SYS_clock_getres, { 0, 0 }, ALLOWED },
	{ "openat2", SYS_openat2, { -1, 0, 0, 0 }, ALLOWED },
	{ "socket tcp", SYS_socket, { AF_INET, SOCK_STREAM, IPPROTO_TCP }, ALLOWED },
	{ "socket udp", SYS_socket, { AF_INET6, SOCK_DGRAM, IPPROTO_UDP }, ALLOWED },
	{ "mmap", SYS_mmap, { 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1 }, ALLOWED },
	{ "memfd_create", SYS_memfd_create, { 0, MFD_CLOEXEC }, ALLOWED },
	{ "prctl PR_GET_NAME", SYS_prctl, { PR_GET_NAME, 0 }, ALLOWED },
	{ "sync", SYS_sync, { 0 }, ALLOWED },
	{ "syncfs of nothing", SYS_syncfs, { -1 }, ALLOWED },
	{ "fadvise64 of nothing", SYS_fadvise64, { -1, 0, 0, 4 }, ALLOWED },
	{ "socket unix", SYS_socket, { AF_UNIX, SOCK_SEQPACKET }, ALLOWED },
	{ "socket inet", SYS_socket, { AF_INET, SOCK_STREAM | SOCK_CLOEXEC }, ALLOWED },
	{ "socket inet6", SYS_socket, { AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK }, ALLOWED },
	{ "ioctl TCGETS", SYS_ioctl, { -1, TCGETS }, ALLOWED },
	{ "ioctl above TIOCSTI", SYS_ioctl, { -1, TIOCSTI + 1 }, ALLOWED },
	{ "ioctl FIONREAD", SYS_ioctl, { -1, FIONREAD }, ALLOWED },
	{ "ioctl above TIOCLINUX", SYS_ioctl, { -1, TIOCLINUX + 1 }, ALLOWED },
	{ "prlimit64 of oneself", SYS_prlimit64, { 0, 99 }, ALLOWED },
	{ "personality query", SYS_personality, { 0xffffffff }, ALLOWED },
	{ "ptrace", SYS_ptrace, { PTRACE_TRACEME }, EPERM },
	{ "unshare", SYS_unshare, { CLONE_NEWUSER }, EPERM },
	{ "unshare of nothing", SYS_unshare, { 0 }, EPERM },
	{ "setns", SYS_setns, { -1, 0 }, EPERM },
	{ "mount", SYS_mount, { 0 }, EPERM },
	{ "umount2", SYS_umount2, { 0 }, EPERM },
	{ "move_mount", SYS_move_mount, { -1 }, EPERM },
	{ "pivot_root", SYS_pivot_root, { 0 }, EPERM },
	{ "chroot", SYS_chroot, { 0 }, EPERM },
	{ "bpf", SYS_bpf, { 99 }, EPERM },
	{ "perf_event_open", SYS_perf_event_open, { 0 }, EPERM },
	{ "keyctl", SYS_keyctl, { 0 }, EPERM },
	{ "userfaultfd", SYS_userfaultfd, { 0 }, EPERM },
	{ "process_vm_readv", SYS_process_vm_readv, { 0 }, EPERM },
	{ "pidfd_getfd", SYS_pidfd_getfd, { -1 }, EPERM },
	{ "open_by_handle_at", SYS_open_by_handle_at, { -1 }, EPERM },
	{ "init_module", SYS_init_module, { 0 }, EPERM },
	{ "capset", SYS_capset, { 0 }, EPERM },
	{ "socket netlink", SYS_socket, { AF_NETLINK, SOCK_RAW }, EAFNOSUPPORT },
	{ "socket packet", SYS_socket, { AF_PACKET, SOCK_RAW }, EAFNOSUPPORT },
	{ "socket vsock", SYS_socket, { AF_VSOCK, SOCK_STREAM }, EAFNOSUPPORT },
	{ "socket alg", SYS_socket, { AF_ALG, SOCK_SEQPACKET }, EAFNOSUPPORT },
	{ "socket of a family in 64 bits",
	  SYS_socket,
	  { (long)(0x100000000 | AF_NETLINK), SOCK_RAW },
	  REFUSED },
	{ "socket inet raw", SYS_socket, { AF_INET, SOCK_RAW, 1 }, EPERM },
	{ "socket inet6 raw", SYS_socket, { AF_INET6, SOCK_RAW | SOCK_CLOEXEC, 58 }, EPERM },
	{ "socket sctp", SYS_socket, { AF_INET, SOCK_STREAM, IPPROTO_SCTP }, ENOSYS },
	{ "socket mptcp", SYS_socket, { AF_INET6, SOCK_STREAM, 262 }, ENOSYS },
	{ "socket udplite", SYS_socket, { AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE }, ENOSYS },
	{ "socket icmp", SYS_socket, { AF_INET, SOCK_DGRAM, IPPROTO_ICMP }, ENOSYS },
	{ "socket dccp", SYS_socket, { AF_INET, SOCK_DCCP, 0 }, ENOSYS },
	{ "seccomp", SYS_seccomp, { 99 }, EPERM },
	{ "prctl PR_SET_SECCOMP", SYS_prctl, { PR_SET_SECCOMP, 2 }, ENOSYS },
	{ "prctl PR_SET_MM", SYS_prctl, { PR_SET_MM, 1 }, ENOSYS },
	{ "prctl PR_SCHED_CORE", SYS_prctl, { 62, 0 }, ENOSYS },
	{ "mmap of huge pages",
	  SYS_mmap,
	  { 0, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1 },
	  ENOMEM },
	{ "memfd of huge pages", SYS_memfd_create, { 0, MFD_HUGETLB }, ENOMEM },
	{ "fcntl F_NOTIFY", SYS_fcntl, { -1, F_NOTIFY, 1 }, EPERM },
	{ "fcntl F_NOTIFY in 64 bits",
	  SYS_fcntl,
	  { -1, (long)(0x100000000 | F_NOTIFY), 1 },
	  REFUSED },
	{ "fcntl F_SETLEASE", SYS_fcntl, { -1, F_SETLEASE, F_WRLCK }, ENOSYS },
	{ "fcntl F_GETFD", SYS_fcntl, { -1, F_GETFD }, ALLOWED },
	{ "fsync of nothing", SYS_fsync, { -1 }, ALLOWED },
	{ "setpriority of the agent", SYS_setpriority, { PRIO_PROCESS, 1, 19 }, EPERM },
	{ "setpriority of the user", SYS_setpriority, { PRIO_USER, 0, 19 }, EPERM },
	{ "setpriority of oneself", SYS_setpriority, { PRIO_PROCESS, 0, 1 }, ALLOWED },
	{ "madvise MADV_MERGEABLE", SYS_madvise, { 0, 4096, MADV_MERGEABLE }, EINVAL },
	{ "madvise MADV_DONTNEED", SYS_madvise, { 0, 0, MADV_DONTNEED }, ALLOWED },
	{ "sched_setaffinity of the agent", SYS_sched_setaffinity, { 1, 0, 0 }, EPERM },
	{ "the same in 64 bits", SYS_sched_setaffinity, { 0x100000001, 0, 0 }, EPERM },
	{ "sched_setaffinity of oneself", SYS_sched_setaffinity, { 0, 0, 0 }, ALLOWED },
	{ "sched_setaffinity of another", SYS_sched_setaffinity, { 0x40000003, 0, 0 }, ALLOWED },
	{ "splice", SYS_splice, { -1 }, ENOSYS },
	{ "mbind", SYS_mbind, { 0 }, ENOSYS },
	{ "mq_open", SYS_mq_open, { 0 }, ENOSYS },
	{ "msgget", SYS_msgget, { 0 }, ENOSYS },
	{ "memfd_secret", 447, { 0 }, ENOSYS },
	{ "socket of an unknown family", SYS_socket, { 200, SOCK_STREAM }, ENOSYS },
	{ "socketpair inet", SYS_socketpair, { AF_INET, SOCK_STREAM }, ENOSYS },
	{ "clone3", SYS_clone3, { 0, sizeof(struct clone_args) }, ENOSYS },
	{ "clone of a user namespace", SYS_clone, { CLONE_NEWUSER | SIGCHLD }, EPERM },
	{ "clone of a mount namespace", SYS_clone, { CLONE_NEWNS | SIGCHLD }, EPERM },
	{ "clone of two namespaces", SYS_clone, { CLONE_NEWNET | CLONE_NEWPID | SIGCHLD }, EPERM },
	{ "io_uring_setup", 425, { 1 }, ENOSYS },
	{ "io_uring_enter", 426, { -1 }, ENOSYS },
	{ "prlimit64 of others", SYS_prlimit64, { 1, RLIMIT_NOFILE }, ENOSYS },
	{ "personality change", SYS_personality, { 0x0040000 }, ENOSYS },
	{ "a call of the future", 999, { 0 }, ENOSYS },
	{ "ioctl TIOCSTI", SYS_ioctl, { -1, TIOCSTI }, EPERM },
	{ "ioctl TIOCSTI in 64 bits", SYS_ioctl, { -1, (long)(0x100000000 | TIOCSTI) }, EPERM },
	{ "ioctl TIOCLINUX", SYS_ioctl, { -1, TIOCLINUX }, EPERM },
};

static void probe_all(int filter_fd, int *results)
{
	struct err e = ERR_INIT;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    confine_install_filter(filter_fd, NULL, &e) < 0)
		_exit(1);
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		const long *a = probes[i].arg;

		errno = 0;
		long rc = syscall(probes[i].nr, a[0], a[1], a[2], a[3], a[4], a[5]);

		if (rc == 0 && probes[i].nr == SYS_clone)
			_exit(2); /* a child in a namespace: it must not go on */
		results[i] = rc < 0 ? errno : 0;
	}
	_exit(0);
}

static void test_seccomp(void **state)
{
	int *results = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct err e = ERR_INIT;
	int status;
	int fd = -1;

	(void)state;
	assert_true(results != MAP_FAILED);
	if (seccomp_compile(SECCOMP_FULL, &fd, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(write(fd, "x", 1), -1); /* sealed */
	memset(results, 0x7f, 4096);
	pid_t pid = fork();

	if (pid == 0)
		probe_all(fd, results);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the child ended with %#x", status);
	int failed = 0;

	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		int got = results[i];
		bool refused = got == ENOSYS || got == EPERM || got == EAFNOSUPPORT;
		bool good = probes[i].want == ALLOWED   ? !refused
			    : probes[i].want == REFUSED ? refused
							: got == probes[i].want;

		if (!good) {
			print_message("# %s: errno %d, not %d\n", probes[i].name, got,
				      probes[i].want);
			failed++;
		}
	}
	munmap(results, 4096);
	close(fd);
	assert_int_equal(failed, 0);
}

/* Threads and processes stay possible under the filter. */
static void test_seccomp_fork(void **state)
{
	struct err e = ERR_INIT;
	int status;
	int fd = -1;

	(void)state;
	assert_int_equal(seccomp_compile(SECCOMP_FULL, &fd, &e), 0);
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (confine_install_filter(fd, NULL, &e) < 0)
			_exit(1);
		long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (child == 0)
			syscall(SYS_exit_group, 7);
		if (child < 0 || waitpid((pid_t)child, &status, 0) != child)
			_exit(2);
		_exit(WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(fd);
}

#if defined(__x86_64__)
/* A call by the 32-bit table ends the process: its numbers mean other calls. */
static void test_seccomp_other_arch(void **state)
{
	struct err e = ERR_INIT;
	int status;
	int fd = -1;

	(void)state;
	assert_int_equal(seccomp_compile(SECCOMP_FULL, &fd, &e), 0);
	pid_t pid = fork();

	if (pid == 0) {
		long rc = 20; /* getpid, by the 32-bit table */

		prctl(PR_SET_DUMPABLE, 0);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (confine_install_filter(fd, NULL, &e) < 0)
			_exit(1);
		__asm__ volatile("int $0x80" : "+a"(rc) : : "memory", "r8", "r9", "r10", "r11");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(fd);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) {
		print_message("# this kernel has no 32-bit calls\n");
		skip();
	}
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
}
#endif

static void test_filter_file(void **state)
{
	struct err e = ERR_INIT;
	OWNED_FD int fd = memfd_create("filter", MFD_CLOEXEC);

	(void)state;
	assert_int_equal(confine_install_filter(-1, NULL, &e), -1);
	assert_int_equal(confine_install_filter(fd, NULL, &e), -1); /* empty */
	assert_int_equal(write(fd, "123456789", 9), 9);
	assert_int_equal(confine_install_filter(fd, NULL, &e), -1); /* no whole number of steps */
	assert_int_equal(e.code, ERR_INTERNAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request_shape),
		cmocka_unit_test(test_language),
		cmocka_unit_test(test_request_names),
		cmocka_unit_test(test_dispatch),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_request_limits),
		cmocka_unit_test(test_request_memory),
		cmocka_unit_test_setup_teardown(test_records, setup_dir, teardown_dir),
		cmocka_unit_test_setup_teardown(test_records_corrupt, setup_dir, teardown_dir),
		cmocka_unit_test_setup_teardown(test_records_leftovers, setup_dir, teardown_dir),
		cmocka_unit_test(test_start_time),
		cmocka_unit_test_setup_teardown(test_uid_blocks, setup_dir, teardown_dir),
		cmocka_unit_test(test_cgroups),
		cmocka_unit_test(test_cgroup_pids_enforced),
		cmocka_unit_test(test_cgroup_set_memory),
		cmocka_unit_test(test_seccomp),
		cmocka_unit_test(test_seccomp_fork),
#if defined(__x86_64__)
		cmocka_unit_test(test_seccomp_other_arch),
#endif
		cmocka_unit_test(test_filter_file),
	};

	return cmocka_run_group_tests_name("jailer", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * sysfuzz: random system calls from inside a session.
 *
 *	sysfuzz SEED SECONDS [GENERATION]
 *
 * A generation is a handful of processes that share descriptors and files and call at random for a
 * second. Then everything that was not there at the start is killed, and the next one begins, so
 * that exit, pause, stopped processes, broken memory and forks do not end the campaign. Arguments
 * have the right type most of the time, so that calls get beyond the first check. With GENERATION
 * only that one runs. One line of JSON on stdout at the end.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sysfuzz_tables.h"

#define ARRAY_LEN(a)  (sizeof(a) / sizeof((a)[0]))
#define WORKERS       3
#define CALLS_MAX     4000
#define GENERATION_MS 1000
#define KICK_MS       4
#define BUFFERS       24
#define BUFFER_SIZE   4096
#define INITIAL_MAX   3
#define SCRATCH_PAGES 64
#define FDS           64

/* What the campaign has done; shared by all its processes. */
struct totals {
	uint64_t calls, succeeded, unknown, refused, children;
};

static struct totals *totals;
static uint64_t rng_state;
static unsigned char *buffers;     /* what pointers point to */
static unsigned char *scratch;     /* pages to map, protect and unmap */
static pid_t initial[INITIAL_MAX]; /* processes that the sweep spares */
static size_t initial_count;

static uint64_t rnd(void)
{
	rng_state ^= rng_state >> 12;
	rng_state ^= rng_state << 25;
	rng_state ^= rng_state >> 27;
	return rng_state * 0x2545f4914f6cdd1dULL;
}

static uint64_t below(uint64_t n)
{
	return (rnd() >> 11) % n;
}

static void rng_seed(uint64_t seed, uint64_t generation, uint64_t worker)
{
	rng_state = (seed + 1) * 0x9e3779b97f4a7c15ULL ^ (generation + 1) * 0xbf58476d1ce4e5b9ULL ^
		    (worker + 1) * 0x94d049bb133111ebULL;
	if (!rng_state)
		rng_state = 1;
	for (int i = 0; i < 8; i++)
		rnd();
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- arguments --- */

static uint64_t any_number(void)
{
	switch (below(6)) {
	case 0:
		return rnd();
	case 1:
		return rnd() & 0xffffffff;
	case 2:
		return 1ULL << below(64);
	case 3:
		return below(16);
	default:
		return numbers[below(ARRAY_LEN(numbers))];
	}
}

static uint64_t any_fd(void)
{
	switch (below(24)) {
	case 0:
		return (uint64_t)-1;
	case 1:
		return (uint64_t)-100;
	case 2:
		return below(5000);
	default:
		return below(72);
	}
}

static unsigned char *any_buffer(void)
{
	return buffers + below(BUFFERS) * BUFFER_SIZE + (below(4) ? 0 : below(BUFFER_SIZE));
}

static uint64_t any_pointer(void)
{
	if (below(12) == 0)
		return wild_pointers[below(ARRAY_LEN(wild_pointers))];
	return (uint64_t)(uintptr_t)any_buffer();
}

static uint64_t any_page(void)
{
	if (below(12) == 0)
		return wild_pointers[below(ARRAY_LEN(wild_pointers))];
	if (below(24) == 0)
		return (uint64_t)(uintptr_t)buffers;
	return (uint64_t)(uintptr_t)(scratch + below(SCRATCH_PAGES) * BUFFER_SIZE);
}

static uint64_t any_size(void)
{
	switch (below(8)) {
	case 0:
		return any_number();
	case 1:
		return below(1 << 22);
	case 2:
		return BUFFER_SIZE * below(SCRATCH_PAGES);
	default:
		return below(300);
	}
}

static bool is_initial(pid_t pid)
{
	for (size_t i = 0; i < initial_count; i++)
		if (initial[i] == pid)
			return true;
	return false;
}

/* Not the campaign itself nor the kernel that started it, or there would be little campaign. */
static uint64_t any_pid(void)
{
	pid_t own = (pid_t)syscall(SYS_getpid);
	pid_t pid;

	switch (below(6)) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		pid = (pid_t)below(32768);
		break;
	case 3:
		pid = (pid_t)any_number();
		break;
	case 4:
		pid = own + (pid_t)below(8) - 4;
		break;
	default:
		pid = own;
	}
	if ((is_initial(pid) || pid == -1) && below(500))
		return (uint64_t)own;
	return (uint64_t)pid;
}

static uint64_t any_signal(void)
{
	/* Ending itself and stopping itself teach little. */
	static const uint64_t mild[] = { 0, SIGCHLD, SIGURG, SIGWINCH, SIGCONT, SIGALRM };

	return below(8) ? mild[below(ARRAY_LEN(mild))] : below(66);
}

static uint64_t any_path(void)
{
	return below(16) ? (uint64_t)(uintptr_t)paths[below(ARRAY_LEN(paths))] : any_pointer();
}

static uint64_t short_time(void)
{
	struct itimerspec *t = (struct itimerspec *)any_buffer();
	struct itimerspec v = { .it_interval.tv_nsec = (long)below(5000000),
				.it_value.tv_nsec = (long)below(20000000) };

	memcpy(t, &v, sizeof(v));
	return below(16) ? (uint64_t)(uintptr_t)t : any_pointer();
}

static uint64_t any_flags(void)
{
	uint64_t bits;

	switch (below(4)) {
	case 0:
		return 0;
	case 1:
		return 1ULL << below(32);
	case 2:
		return 1ULL << below(32) | below(16);
	default: /* a quarter of the bits */
		bits = rnd();
		return bits & rnd() & 0xffffffff;
	}
}

/* --- what pointers point to --- */

static void fill_sockaddr(unsigned char *p)
{
	static const unsigned short families[] = { AF_UNIX,   AF_INET,   AF_INET6, AF_NETLINK,
						   AF_PACKET, AF_UNSPEC, AF_ALG,   AF_VSOCK };
	static const unsigned char loopback[4] = { 127, 0, 0, 1 };
	unsigned short family = families[below(ARRAY_LEN(families))];

	memset(p, 0, 128);
	memcpy(p, &family, sizeof(family));
	p[2] = (unsigned char)below(256); /* a port, or an abstract name */
	p[3] = (unsigned char)below(256);
	if (family == AF_UNIX)
		strcpy((char *)p + 2 + below(2), "sock");
	else if (family == AF_INET)
		memcpy(p + 4, loopback, sizeof(loopback));
	else if (family == AF_INET6)
		p[23] = 1;
}

static void fill_vectors(unsigned char *p)
{
	struct iovec v[8];

	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		v[i].iov_base = (void *)(uintptr_t)any_pointer();
		v[i].iov_len = any_size();
	}
	memcpy(p, v, sizeof(v));
}

static void fill_message(unsigned char *p)
{
	struct msghdr m = {
		.msg_name = below(2) ? any_buffer() : NULL,
		.msg_namelen = (socklen_t)below(129),
		.msg_iov = (struct iovec *)any_buffer(),
		.msg_iovlen = below(9),
		.msg_control = p + sizeof(m),
		.msg_controllen = below(3) ? CMSG_SPACE(4 * sizeof(int)) : below(200),
	};
	struct cmsghdr c = {
		.cmsg_len = CMSG_LEN(sizeof(int) * (1 + below(4))),
		.cmsg_level = below(4) ? SOL_SOCKET : (int)any_number(),
		.cmsg_type = (int)below(4),
	};

	memcpy(p, &m, sizeof(m));
	memcpy(p + sizeof(m), &c, sizeof(c));
	for (int i = 0; i < 4; i++) {
		int fd = (int)any_fd();

		memcpy(p + sizeof(m) + sizeof(c) + (size_t)i * sizeof(fd), &fd, sizeof(fd));
	}
}

static void fill_words(unsigned char *p)
{
	for (size_t i = 0; i < BUFFER_SIZE / 16; i++) {
		uint64_t v = below(3) ? any_number() : below(2) ? any_pointer() : any_fd();

		memcpy(p + i * 8, &v, sizeof(v));
	}
}

static void fill_halves(unsigned char *p)
{
	for (size_t i = 0; i < BUFFER_SIZE / 16; i++) {
		uint32_t v = (uint32_t)(below(2) ? below(64) : any_number());

		memcpy(p + i * 4, &v, sizeof(v));
	}
}

static void fill_buffer(unsigned char *p)
{
	switch (below(8)) {
	case 0:
	case 1:
		fill_sockaddr(p);
		break;
	case 2:
		fill_vectors(p);
		break;
	case 3:
		fill_message(p);
		break;
	case 4:
		fill_words(p);
		break;
	case 5:
		fill_halves(p);
		break;
	case 6:
		for (size_t i = 0; i < BUFFER_SIZE / 4; i++)
			p[i] = (unsigned char)rnd();
		break;
	default:
		strcpy((char *)p, paths[below(ARRAY_LEN(paths))]);
	}
}

static int random_socket(void)
{
	static const int families[] = { AF_UNIX,      AF_INET,         AF_INET6,
					AF_UNIX,      AF_NETLINK,      AF_PACKET,
					AF_BLUETOOTH, 38 /* AF_ALG */, 40 /* AF_VSOCK */ };
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW };

	return socket(families[below(ARRAY_LEN(families))],
		      types[below(ARRAY_LEN(types))] | (below(2) ? SOCK_NONBLOCK : 0),
		      below(8) ? 0 : (int)below(256));
}

static void open_one(void)
{
	int pair[2];
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	switch (below(14)) {
	case 0:
		(void)!pipe2(pair, below(2) ? O_NONBLOCK : 0);
		return;
	case 1:
		(void)!socketpair(AF_UNIX, below(2) ? SOCK_STREAM : SOCK_SEQPACKET, 0, pair);
		return;
	case 2:
	case 3:
	case 4:
		(void)!random_socket();
		return;
	case 5:
		(void)!epoll_create1(0);
		return;
	case 6:
		(void)!eventfd(1, EFD_NONBLOCK);
		return;
	case 7:
		(void)!timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
		return;
	case 8:
		(void)!signalfd(-1, &set, SFD_NONBLOCK);
		return;
	case 9:
		(void)!memfd_create("m", MFD_ALLOW_SEALING);
		return;
	case 10:
		(void)!syscall(SYS_pidfd_open, below(2) ? getpid() : 1, 0);
		return;
	case 11:
		(void)!posix_openpt(O_RDWR | O_NOCTTY);
		return;
	default:
		(void)!open(paths[below(ARRAY_LEN(paths))],
			    (below(2) ? O_RDWR : O_RDONLY) | O_NONBLOCK | (below(2) ? O_CREAT : 0),
			    0700);
	}
}

/* --- calls --- */

static uint64_t argument(char kind)
{
	static const char kinds[] = "fpbanzgiPst";

	if (kind == '?' || below(40) == 0)
		kind = kinds[below(sizeof(kinds) - 1)];
	switch (kind) {
	case 'f':
		return any_fd();
	case 'p':
		return any_path();
	case 'b':
		return any_pointer();
	case 'a':
		return any_page();
	case 'z':
		return any_size();
	case 'g':
		return any_flags();
	case 'i':
		return below(20);
	case 'P':
		return any_pid();
	case 's':
		return any_signal();
	case 't':
		return short_time();
	default:
		return any_number();
	}
}

/* Calls of the 32-bit table, which the filter must answer with death. */
static void foreign_call(void)
{
#ifdef __x86_64__
	long result;

	if (below(2))
		syscall((long)below(500) | 0x40000000);
	else
		__asm__ volatile("int $0x80"
				 : "=a"(result)
				 : "a"(below(450)), "b"(below(8)), "c"(0), "d"(0)
				 : "memory");
#endif
}

static bool is_certain_death(long number)
{
	return number == SYS_exit || number == SYS_exit_group || number == SYS_rt_sigreturn;
}

static void one_call(void)
{
	size_t which = below(ARRAY_LEN(calls) * 5 / 4);
	const char *kinds = "";
	uint64_t a[6];
	long number;

	if (which < ARRAY_LEN(calls)) {
		number = calls[which].number;
		kinds = calls[which].kinds;
	} else {
		number = below(400) ? (long)below(480) : (long)any_number();
	}
	if (is_certain_death(number) && below(200))
		return;
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = argument(*kinds ? *kinds++ : '?');
	long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);

	__atomic_add_fetch(&totals->calls, 1, __ATOMIC_RELAXED);
	if (result != -1)
		__atomic_add_fetch(&totals->succeeded, 1, __ATOMIC_RELAXED);
	else if (errno == ENOSYS)
		__atomic_add_fetch(&totals->unknown, 1, __ATOMIC_RELAXED);
	else if (errno == EPERM)
		__atomic_add_fetch(&totals->refused, 1, __ATOMIC_RELAXED);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* What blocks is interrupted. A forked child starts without such a timer. */
static void start_alarms(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval every = { { 0, KICK_MS * 1000 }, { 0, KICK_MS * 1000 } };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

static void worker(void)
{
	pid_t self = (pid_t)syscall(SYS_getpid);

	setpgid(0, 0);
	start_alarms();
	for (int left = CALLS_MAX; left > 0; left--) {
		if (left % 64 == 0)
			start_alarms();
		if (left % 16 == 0)
			fill_buffer(buffers + below(BUFFERS) * BUFFER_SIZE);
		if (below(4000) == 0)
			foreign_call();
		one_call();
		if ((pid_t)syscall(SYS_getpid) != self) { /* a call was a fork */
			self = (pid_t)syscall(SYS_getpid);
			start_alarms();
			rng_state ^= (uint64_t)self << 32;
			if (left > 100)
				left = 100;
			__atomic_add_fetch(&totals->children, 1, __ATOMIC_RELAXED);
		}
	}
	_exit(0);
}

/* --- generations --- */

/* Calls fn for each process of the session. */
static void each_process(void (*fn)(pid_t pid))
{
	DIR *dir = opendir("/proc");

	if (!dir)
		return;
	for (struct dirent *d; (d = readdir(dir));) {
		long pid = strtol(d->d_name, NULL, 10);

		if (pid > 0)
			fn((pid_t)pid);
	}
	closedir(dir);
}

static void note_initial(pid_t pid)
{
	if (initial_count < INITIAL_MAX)
		initial[initial_count++] = pid;
}

static void kill_stranger(pid_t pid)
{
	if (!is_initial(pid))
		kill(pid, SIGKILL);
}

static void remove_segments(void)
{
	for (int id = 0; id < 4096; id++) {
		unsigned char info[256];
		int shmid = (int)syscall(SYS_shmctl, id, 13 /* SHM_STAT */, info);

		if (shmid >= 0)
			syscall(SYS_shmctl, shmid, 0 /* IPC_RMID */, NULL);
	}
}

static void remove_files(const char *path)
{
	DIR *dir = opendir(path);

	if (!dir)
		return;
	for (struct dirent *d; (d = readdir(dir));)
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0 &&
		    (unlinkat(dirfd(dir), d->d_name, 0) < 0))
			unlinkat(dirfd(dir), d->d_name, AT_REMOVEDIR);
	closedir(dir);
}

/* SIGKILL again and again: a fork bomb outruns one round. */
static void sweep(void)
{
	int64_t end = now_ms() + 5000;

	while (now_ms() < end) {
		each_process(kill_stranger);
		pid_t pid;

		while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
			;
		if (pid < 0 && errno == ECHILD)
			break;
		usleep(2000);
	}
	chmod(".", 0700);
	chmod("d0", 0700);
	remove_segments();
	remove_files("/dev/shm");
	remove_files("d0/d1");
	remove_files("d0");
	remove_files(".");
}

static void limit(int resource, rlim_t value)
{
	struct rlimit l = { value, value };

	setrlimit(resource, &l);
}

static pid_t start_worker(uint64_t seed, uint64_t generation, uint64_t n)
{
	pid_t pid = fork();

	if (pid == 0) {
		rng_seed(seed, generation, n);
		worker();
	}
	if (pid > 0)
		__atomic_add_fetch(&totals->children, 1, __ATOMIC_RELAXED);
	return pid;
}

/* The process that all workers of a generation are children of, so that they share descriptors. */
static void generation_main(uint64_t seed, uint64_t generation)
{
	int null = open("/dev/null", O_RDWR);
	pid_t workers[WORKERS] = { 0 };

	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	rng_seed(seed, generation, 0);
	signal(SIGXFSZ, SIG_IGN);
	if (below(32)) { /* the rest is there to run out of memory */
		limit(RLIMIT_AS, 48 << 20);
		limit(RLIMIT_FSIZE, 4 << 20);
	}
	mkdir("d0", 0700);
	for (int i = 0; i < FDS; i++)
		open_one();
	for (size_t i = 0; i < BUFFERS; i++)
		fill_buffer(buffers + i * BUFFER_SIZE);
	for (uint64_t n = 1;;) {
		for (size_t i = 0; i < WORKERS; i++)
			if (workers[i] <= 0 || waitpid(workers[i], NULL, WNOHANG) != 0)
				workers[i] = start_worker(seed, generation, n++);
			else
				kill(workers[i], SIGALRM);
		usleep(KICK_MS * 1000);
	}
}

static void run_generation(uint64_t seed, uint64_t generation)
{
	int64_t end = now_ms() + GENERATION_MS;
	pid_t pid = fork();

	if (pid == 0)
		generation_main(seed, generation);
	while (pid > 0 && now_ms() < end && waitpid(pid, NULL, WNOHANG) == 0)
		usleep(5000);
	sweep();
}

/* With a gap on either side: calls write past the ends of what they are given. */
static void *map(size_t size, int kind)
{
	size_t gap = 1 << 20;
	unsigned char *room =
		mmap(NULL, size + 2 * gap, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *p = MAP_FAILED;

	if (room != MAP_FAILED)
		p = mmap(room + gap, size, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS | MAP_FIXED,
			 -1, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

int main(int argc, char **argv)
{
	static const char dir[] = "/tmp/sysfuzz";
	uint64_t generation = 0;

	if (argc < 3) {
		fprintf(stderr, "usage: sysfuzz SEED SECONDS [GENERATION]\n");
		return 64;
	}
	chmod(dir, 0700);
	if ((mkdir(dir, 0700) < 0 && errno != EEXIST) || chdir(dir) < 0) {
		perror(dir);
		return 1;
	}
	uint64_t seed = strtoull(argv[1], NULL, 10);
	int64_t end = now_ms() + strtoll(argv[2], NULL, 10) * 1000;

	totals = map(sizeof(*totals), MAP_SHARED);
	buffers = map((size_t)BUFFERS * BUFFER_SIZE, MAP_PRIVATE);
	scratch = map((size_t)SCRATCH_PAGES * BUFFER_SIZE, MAP_PRIVATE);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	note_initial(1);
	note_initial(getpid());
	note_initial(getppid());
	sweep(); /* what a campaign left that was killed with the kernel it belonged to */
	do {
		run_generation(seed, argc > 3 ? strtoull(argv[3], NULL, 10) : generation);
		generation++;
	} while (argc == 3 && now_ms() < end);
	printf("{\"seed\": %llu, \"generations\": %llu, \"calls\": %llu, \"succeeded\": %llu, "
	       "\"unknown\": %llu, \"refused\": %llu, \"children\": %llu}\n",
	       (unsigned long long)seed, (unsigned long long)generation,
	       (unsigned long long)totals->calls, (unsigned long long)totals->succeeded,
	       (unsigned long long)totals->unknown, (unsigned long long)totals->refused,
	       (unsigned long long)totals->children);
	return 0;
}

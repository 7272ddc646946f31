/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "gateway/gateway.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

/* What a process does after gateway_confine(), as somebody who has taken it over would. */
typedef void act_fn(void);

static struct sockaddr_in elsewhere(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return to;
}

static void send_to(int fd)
{
	struct sockaddr_in to = elsewhere();

	sendto(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof(to));
}

static void send_upstream_elsewhere(void)
{
	send_to(GATEWAY_UPSTREAM_FD);
}

static void send_records_elsewhere(void)
{
	send_to(GATEWAY_RECORDS_FD);
}

static void send_netlink(void)
{
	send(GATEWAY_NFLOG_FD, "x", 1, MSG_DONTWAIT);
}

static void send_conntrack(void)
{
	send(GATEWAY_CONNTRACK_FD, "x", 1, MSG_DONTWAIT);
}

static void send_message(void)
{
	struct sockaddr_in to = elsewhere();
	struct msghdr msg = { .msg_name = &to, .msg_namelen = sizeof(to) };

	sendmsg(GATEWAY_UDP_FD, &msg, MSG_DONTWAIT);
}

static void make_socket(void)
{
	(void)!socket(AF_INET, SOCK_DGRAM, 0);
}

static void connect_elsewhere(void)
{
	struct sockaddr_in to = elsewhere();

	(void)!connect(GATEWAY_UPSTREAM_FD, (struct sockaddr *)&to, sizeof(to));
}

static void open_file(void)
{
	(void)!open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static void write_elsewhere(void)
{
	(void)!write(GATEWAY_RECORDS_FD, "x", 1);
}

static void map_memory(void)
{
	(void)!mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
}

static void start_process(void)
{
	fork();
}

static void run_program(void)
{
	static char name[] = "/bin/true";
	char *const argv[] = { name, NULL };

	execv(name, argv);
}

static void signal_parent(void)
{
	kill(getppid(), 0);
}

static void regain_user(void)
{
	(void)!setresuid(0, 0, 0);
}

static void become_dumpable(void)
{
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

/* So that a filter that lets nothing through does not pass for a good one. */
static void what_the_loop_does(void)
{
	struct timespec ts;
	struct epoll_event ev;
	char byte;

	send_to(GATEWAY_UDP_FD);
	send(GATEWAY_UPSTREAM_FD, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	send(GATEWAY_RECORDS_FD, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	recv(GATEWAY_NFLOG_FD, &byte, 1, MSG_DONTWAIT);
	accept4(GATEWAY_TCP_FD, NULL, NULL, SOCK_NONBLOCK);
	epoll_wait(GATEWAY_UPSTREAM_FD + 1, &ev, 1, 0);
	getrandom(&byte, 1, 0);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
	(void)!write(STDERR_FILENO, "", 0);
	close(GATEWAY_UPSTREAM_FD + 1);
}

/* The signal that ended a confined process doing this, 0: it was allowed. */
static int confined(act_fn *act)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct err e = ERR_INIT;

		for (int fd = GATEWAY_NFLOG_FD; fd <= GATEWAY_UPSTREAM_FD; fd++) {
			OWNED_FD int s = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

			if (s == fd)
				take_fd(s);
			else if (dup2(s, fd) != fd)
				_exit(1);
		}
		if (gateway_confine(64123, &e) < 0)
			_exit(2);
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		return WTERMSIG(status);
	assert_int_equal(WEXITSTATUS(status), 0);
	return 0;
}

static void test_filter(void **state)
{
	static const struct {
		const char *name;
		act_fn *act;
	} refused[] = {
		{ "sendto a destination, upstream", send_upstream_elsewhere },
		{ "sendto a destination, records", send_records_elsewhere },
		{ "send on the packet log", send_netlink },
		{ "send on connection tracking", send_conntrack },
		{ "sendmsg", send_message },
		{ "socket", make_socket },
		{ "connect", connect_elsewhere },
		{ "open", open_file },
		{ "write", write_elsewhere },
		{ "mmap", map_memory },
		{ "fork", start_process },
		{ "execve", run_program },
		{ "kill", signal_parent },
		{ "setresuid", regain_user },
		{ "prctl", become_dumpable },
	};

	(void)state;
	if (geteuid() != 0)
		fail_msg("needs root: the gateway gives its rights up");
	assert_int_equal(confined(what_the_loop_does), 0);
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		int sig = confined(refused[i].act);

		if (sig != SIGSYS)
			fail_msg("%s: signal %d", refused[i].name, sig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_filter) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

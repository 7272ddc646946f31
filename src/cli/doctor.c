/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include "base/clock.h"
#include "base/own.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define REAP_MS 1000

void doctor_add(struct doctor *d, enum finding_status status, const char *what, const char *fix,
		const char *fmt, ...)
{
	static const char *const names[] = { "ok", "warn", "fail" };
	char detail[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	d->failed = d->failed || status == FINDING_FAIL;
	json_array_append_new(d->findings,
			      json_pack("{ssssssss}", "status", names[status], "what", what,
					"detail", detail, "fix", status == FINDING_OK ? "" : fix));
}

void trial_set(struct trial *t, enum trial_result result, const char *fmt, ...)
{
	va_list ap;

	t->result = result;
	va_start(ap, fmt);
	vsnprintf(t->text, sizeof(t->text), fmt, ap);
	va_end(ap);
}

/** reap: the child's end, but not for ever: one that is stuck in the kernel is left behind. */
static int reap(pid_t pid)
{
	int64_t end_ms = clock_mono_ms() + REAP_MS;
	int status = 0;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (clock_mono_ms() > end_ms)
			return -1;
		usleep(1000);
	}
	return status;
}

static _Noreturn void child_main(trial_fn fn, const void *arg, int write_fd)
{
	struct trial t = { TRIAL_FAILED, "" };

	fn(&t, arg);
	if (write(write_fd, &t, sizeof(t)) != sizeof(t))
		_exit(1);
	/* No exit handlers: they belong to the parent. */
	_exit(0);
}

struct trial doctor_child(trial_fn fn, const void *arg, int deadline_ms)
{
	struct trial t = { TRIAL_FAILED, "no result" };
	int fds[2];

	if (pipe2(fds, O_CLOEXEC)) {
		trial_set(&t, TRIAL_FAILED, "pipe: %s", strerror(errno));
		return t;
	}
	pid_t pid = fork();

	if (pid == 0)
		child_main(fn, arg, fds[1]);
	close(fds[1]);
	OWNED_FD int read_fd = fds[0];

	if (pid < 0) {
		trial_set(&t, TRIAL_FAILED, "fork: %s", strerror(errno));
		return t;
	}
	struct pollfd p = { .fd = read_fd, .events = POLLIN };
	int ready = poll(&p, 1, deadline_ms);

	if (ready <= 0) {
		kill(pid, SIGKILL);
		trial_set(&t, TRIAL_HUNG, "no end within %d ms%s", deadline_ms,
			  reap(pid) < 0 ? ", and the process cannot be killed" : "");
		return t;
	}
	ssize_t n = read(read_fd, &t, sizeof(t));
	int status = reap(pid);

	if (n != sizeof(t))
		trial_set(&t, TRIAL_FAILED, "the trial was ended by signal %d",
			  WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	t.text[TRIAL_TEXT_MAX - 1] = '\0';
	return t;
}

static int run_doctor(struct cli *cli, struct err *e)
{
	struct doctor d = { .findings = json_array() };

	if (!d.findings)
		return err_set(e, ERR_NOMEM, "out of memory");
	doctor_check_host(&d);
	doctor_check_kernel(&d);
	doctor_check_cgroup(&d);
	doctor_check_network(&d);
	doctor_check_kvm(&d);
	/* For people first: a table unless something else was asked for. */
	if (!cli->output.format_given)
		cli->output.format = OUTPUT_TABLE;
	int rc = output_json(&cli->output, d.findings, e);

	json_decref(d.findings);
	if (!rc && d.failed)
		rc = err_set(e, ERR_UNAVAILABLE,
			     "this machine cannot run sessions safely as it is");
	return rc;
}

static const struct cli_verb verbs[] = {
	{ .name = "doctor",
	  .summary = "Check what this machine can do, by trying it.",
	  .notes = "Every line is ok, warn (works, with less) or fail. Exit status 0 if nothing "
		   "fails, else 69.",
	  .run = run_doctor },
	{ .name = NULL },
};

const struct cli_group cli_group_doctor = { "", "", verbs };

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ends, and what ends with it.
 *
 * SECURITY: when the last kernel and the last terminal have ended, everything in the sandbox ends
 * with them, whatever group or session it fled to: to PID 1, kill(-1) is all but itself. The next
 * kernel starts alone, with nobody to disturb it, and no process is left that its owner can neither
 * see nor end.
 *
 * While others live, the agent looks at /proc for what belongs to none of them. That is best
 * effort, inside one tenant's own sandbox: what made itself undumpable is not seen (hidepid), what
 * forks faster than a few rounds look may go on. Both last until the last kernel has ended, at most
 * until the session does, and count against the session's limits all the time. The other way round,
 * a daemon that left its session and lost its parents is nobody's, and ends with the first kernel
 * that ends. Numbers are signalled a moment after they were read; between the two one can belong to
 * another process only if the sandbox goes through all numbers there are in that moment, and then
 * it hits itself.
 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/own.h"

#include <signal.h>
#include <sys/wait.h>

/* Children taken in one turn: whoever makes them without end must not keep the agent from its
 * timer. */
#define CHILDREN_TURN 256
#define PROCESSES_MAX 4096
#define DEPTH_MAX     64
/* What is looked at in one go, for what is forked meanwhile; and how long that may take. */
#define ROUNDS_MAX 8
#define ROUNDS_MS  20
/* A new kernel is not known before it is attached; until then it is a young leader of its own
 * session, without parents, like an orphan that made itself one. */
#define YOUNG_MS 2000

static bool kernel_has(const struct agent_kernel *k, pid_t pid)
{
	return k && k->pid == pid && !k->dead;
}

bool reap_known(const struct agent *a, pid_t pid)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (kernel_has(a->kernels[i], pid))
			return true;
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i] && a->terminals[i]->pid == pid && !a->terminals[i]->ended)
			return true;
	return false;
}

/* Somebody whose process has not told its number yet. */
static bool anybody_starts(const struct agent *a)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (a->kernels[i] && a->kernels[i]->state != AGENT_KERNEL_NONE &&
		    !a->kernels[i]->pid)
			return true;
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i] && !a->terminals[i]->pid)
			return true;
	return false;
}

static bool anybody_lives(const struct agent *a)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (a->kernels[i] && a->kernels[i]->state != AGENT_KERNEL_NONE &&
		    !a->kernels[i]->dead)
			return true;
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i] && !a->terminals[i]->ended)
			return true;
	return false;
}

struct sweep {
	struct agent *a;
	struct agent_process *all;
	size_t count;
	pid_t session; /* only what is in this one or comes from it; 0: all orphans */
	bool starting;
	bool spared; /* something that may turn out to be an orphan */
};

static int by_pid(const void *key, const void *entry)
{
	const pid_t *pid = key;
	const struct agent_process *p = entry;

	return *pid < p->pid ? -1 : *pid > p->pid;
}

/* /proc lists processes by their numbers. */
static const struct agent_process *find(const struct sweep *s, pid_t pid)
{
	return bsearch(&pid, s->all, s->count, sizeof(s->all[0]), by_pid);
}

/* Itself, not what it comes from. */
static bool spared(struct sweep *s, const struct agent_process *p)
{
	/* Session 0 is one outside: only what a zygote is making right now can be in it. */
	if (!p->session || reap_known(s->a, p->pid) || reap_known(s->a, p->session))
		return true;
	if (p->parent > 1 || p->pid != p->session || (!s->starting && p->age_ms >= YOUNG_MS))
		return false;
	s->spared = true;
	return true;
}

static bool condemned(struct sweep *s, const struct agent_process *p)
{
	bool member = !s->session;

	for (int depth = 0; depth < DEPTH_MAX; depth++) {
		if (spared(s, p))
			return false;
		member = member || p->session == s->session;
		if (p->parent <= 1)
			return member;
		p = find(s, p->parent);
		if (!p)
			return false; /* comes from what cannot be seen: maybe one that lives */
	}
	return member; /* nobody's honest family is that old */
}

/* Returns how many it has signalled. */
static size_t one_round(struct sweep *s)
{
	size_t killed = 0;

	s->count = processes_read(s->all, PROCESSES_MAX);
	for (size_t i = 0; i < s->count; i++) {
		if (!condemned(s, &s->all[i]))
			continue;
		kill(s->all[i].pid, SIGKILL);
		killed++;
	}
	return killed;
}

/* True if it left what may turn out to be an orphan. */
static bool sweep(struct agent *a, pid_t session)
{
	struct sweep s = { .a = a, .session = session, .starting = anybody_starts(a) };
	int64_t until_ns = clock_mono_ns() + ROUNDS_MS * 1000000ll;

	s.all = calloc(PROCESSES_MAX, sizeof(*s.all));
	for (int i = 0; s.all && i < ROUNDS_MAX && clock_mono_ns() < until_ns; i++)
		if (!one_round(&s))
			break;
	free(s.all);
	return s.spared;
}

void reap_orphans(struct agent *a)
{
	bool again = false;

	if (anybody_lives(a))
		again = sweep(a, 0);
	else
		kill(-1, SIGKILL);
	a->orphans_ns = again ? clock_mono_ns() + (YOUNG_MS + 500) * 1000000ll : 0;
	agent_rearm(a);
}

void reap_session(struct agent *a, pid_t session)
{
	if (anybody_lives(a))
		sweep(a, session);
	else
		kill(-1, SIGKILL);
}

static void child_ended(struct agent *a, pid_t pid, int status)
{
	/* A program can end before its launcher's word of it is read. */
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i])
			terminal_launched(a, a->terminals[i]);
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++) {
		if (kernel_has(a->kernels[i], pid)) {
			kernel_died(a, a->kernels[i], status);
			return;
		}
	}
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++) {
		struct agent_terminal *t = a->terminals[i];

		if (t && t->pid == pid && !t->ended) {
			terminal_died(a, t, status);
			return;
		}
	}
}

void reap_children(struct agent *a)
{
	int status;

	a->reaping = false;
	for (int i = 0; i < CHILDREN_TURN; i++) {
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid <= 0)
			return;
		child_ended(a, pid, status);
	}
	a->reaping = true;
}

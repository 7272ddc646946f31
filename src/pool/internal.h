/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/** internal: what the files of pool/ share. */

#include "loop/loop.h"
#include "pool/pool.h"

#include <jansson.h>

enum sandbox_state {
	SANDBOX_CREATING,
	SANDBOX_SHELL,
	SANDBOX_STARTING,
	SANDBOX_READY,
	SANDBOX_ALLOCATED,
};

/** What of a sandbox concerns the world outside (network.c). */
struct sandbox_network {
	struct flow_owner *owner; /* its address, while connected */
	bool open;                /* may be connected: no cut has succeeded since a connect */
	bool stale;               /* to be asked again */
	bool busy;                /* a call is under way, */
	bool asked;               /* and this is what it asks for */
	bool counted;             /* in pools.connecting */
	int failures;             /* in a row, of what was asked last */
	struct list turn;         /* pools.connects: waits for its turn */
	struct loop_timer *retry;
};

struct sandbox {
	struct map_node node; /* pools.sandboxes, by sid */
	struct list list;     /* pool.shells or pool.ready */
	char sid[JAILER_SID_SIZE];
	char image[JAILER_IMAGE_SIZE];
	uint64_t memory_bytes; /* its limit; 0: an earlier daemon made it */
	struct pool *pool;     /* NULL: its pool is gone, it is being destroyed */
	struct session *session;
	enum sandbox_state state;
	struct agent_link *link;
	bool want_kernel; /* CREATING: go on to STARTING */
	bool counted;     /* in pools.starting */
	bool dead;        /* destroy was asked for; waits for callbacks under way */
	int calls;        /* backend calls under way that hold a pointer to us */
	int64_t kernel_started_ms;
	struct sandbox_network network;
};

#define DEMAND_SLOTS 30 /* seconds of history */

struct pool {
	struct map_node node; /* pools.pools, by key */
	struct pools *pools;
	struct session_pool_spec spec;
	const struct runtime *runtime;
	char image[JAILER_IMAGE_SIZE]; /* its id */
	bool image_loaded;
	struct map sessions; /* by identifier */
	struct list order;   /* struct session, by creation */
	struct list waiting; /* sessions without a sandbox, oldest first */
	size_t waiting_count;
	struct list ready;
	struct list shells;
	size_t ready_count, shell_count;
	size_t making; /* on their way to ready (CREATING with want_kernel, or STARTING) */
	size_t making_shells;
	bool starved; /* wants more, and starting_max or its share of it stands in the way */
	uint32_t demand[DEMAND_SLOTS]; /* allocations per second */
	int64_t demand_second;
	struct loop_timer *refill;
	int failures; /* sandboxes in a row that did not come up */
	int64_t retry_at_ms;
	size_t sandbox_count; /* struct sandbox that point here */
	bool removed;         /* freed when the last of them is gone */
};

/** Lines of one second, and how many more there would have been (flows.c). */
struct flow_budget {
	int64_t second;
	unsigned used;
	uint64_t dropped;
};

struct pools {
	struct pools_config config;
	struct map pools;
	struct map sandboxes;
	size_t starting;
	size_t fed; /* which pool was first asked the last time a place became free */
	bool started;
	bool draining;
	size_t destroying;
	struct list connects; /* struct sandbox_network: sessions to be connected */
	size_t connecting;    /* calls for them under way */
	struct map flow_owners;
	struct list flow_gone; /* struct flow_owner of sandboxes that are gone, oldest first */
	struct flow_budget flow_budget;
	uint64_t flows_unknown;
	int64_t flows_unknown_next_ms;
	void (*ready)(void *arg, const struct err *e);
	void *ready_arg;
	void (*drained)(void *arg);
	void *drained_arg;
};

#define MEMORY_UNKNOWN UINT64_MAX

enum context_kernel {
	CONTEXT_KERNEL_NONE,     /* context.retry runs */
	CONTEXT_KERNEL_WAITS,    /* for memory to be given back, or for the end of another's */
	CONTEXT_KERNEL_ASKED,    /* a START_KERNEL is under way */
	CONTEXT_KERNEL_STARTING, /* it is with the agent */
	CONTEXT_KERNEL_UP,
	CONTEXT_KERNEL_ENDING, /* KERNEL_END was sent */
};

/** A kernel of a session, with its queue; or the place of one (contexts.c). */
struct context {
	struct list node; /* session.contexts, in order of creation */
	struct session *session;
	char name[CONTEXT_NAME_MAX + 1];
	const char *language; /* of the pool's runtime */
	int number;           /* of its kernel at the agent; -1: none yet, or any more */
	bool deleted;         /* nobody finds it by name; freed when its kernel has ended */
	enum context_kernel kernel;
	bool kernel_idle;    /* UP, and takes an execution */
	int kernel_failures; /* in a row: it did not start, or lived less than a second */
	int64_t kernel_started_ms;
	struct loop_timer *retry;
	struct list queue; /* struct execution: QUEUED, first to run first */
	size_t queue_len;
	struct execution *current;
	uint64_t foreign_op; /* an execution of a daemon before us whose caller is gone; 0 none */
	size_t begun;
	/* current runs past its timeout and the agent is silent, or is asking and the jailer is */
	struct loop_timer *overdue;
};

struct session {
	struct map_node node; /* pool.sessions */
	struct list order;
	struct list waiting; /* pool.waiting while it has no sandbox */
	struct pool *pool;
	struct sandbox *sandbox;
	char identifier[IDENTIFIER_MAX + 1];
	char guid[37];
	int64_t created_us;
	int64_t accessed_us;
	int64_t asked_ns; /* for the allocation time */
	int64_t allocation_us;
	bool agent_heard;     /* it has said what there is: kernel, executions */
	struct context first; /* `default` */
	struct list contexts; /* struct context, that one first */
	/* The memory limit of single executions, schedule.c. */
	uint64_t memory_bytes; /* the sandbox's own limit; 0: not known */
	uint64_t memory_set;   /* the lower one in force; 0: none; MEMORY_UNKNOWN */
	uint64_t memory_want;  /* while memory_busy */
	bool memory_busy;      /* a change is under way; nothing starts */
	int memory_failures;   /* in a row */
	bool refusals_busy;    /* a question of refusals.c is under way */
	bool stored;           /* has a row */
	bool ended;
	uint64_t arrivals;
	size_t queue_len;      /* of all contexts */
	uint64_t queued_bytes; /* their source text */
	bool later;            /* session_later() has been called */
	struct list recent;    /* FINISHED, oldest first */
	size_t recent_len;
	uint64_t recent_bytes; /* of their results */
	struct list waits;     /* struct session_wait */
	size_t wait_count;
	struct list terminals; /* struct terminal_place */
	size_t terminal_count;
	struct list replaced;    /* struct terminal that are to be told so */
	struct loop_timer *idle; /* cooldown */
};

/* pools.c */
void pools_signal_ready(struct pools *p, const struct err *e);

/* sandboxes.c */
struct sandbox *sandbox_find(struct pools *p, const char *sid);
/** sandbox_adopt: one that an earlier daemon left, for this session; connects. */
int sandbox_adopt(struct session *s, const char *sid, const char *image, struct err *e);
/** sandbox_leave_stock: off the list and out of the counts its state has it in. */
void sandbox_leave_stock(struct sandbox *sb);
void sandbox_destroy(struct sandbox *sb);
/** sandbox_call_returned: a call of the backend came back; true if the sandbox was destroyed
 * meanwhile (it may be freed now). */
bool sandbox_call_returned(struct sandbox *sb);
/** sandbox_make_failed: one without a session did not come up; destroys it. */
void sandbox_make_failed(struct sandbox *sb, const struct err *e);
/** sandbox_networked: a new sandbox is connected, or need not be: it goes on. */
void sandbox_networked(struct sandbox *sb);
/** sandbox_destroy_unknown: by id alone. */
void sandbox_destroy_unknown(struct pools *p, const char *sid);
/** sandbox_set_memory: asks for another limit, 0: its own; answered by session_memory_set(). */
void sandbox_set_memory(struct sandbox *sb, uint64_t bytes);
/** pool_unref: one struct sandbox less. */
void pool_unref(struct pool *pool);
/** pool_refill: soon; pool_refill_now: this turn. */
void pool_refill(struct pool *pool);
void pool_refill_now(struct pool *pool);
/** pool_note_demand: one allocation. */
void pool_note_demand(struct pool *pool);
size_t pool_ready_target(struct pool *pool);

/* network.c: whether sandboxes reach the outside, as the status of their pool says. */
void network_init(struct sandbox *sb);
/** network_settle: asks for what the pool says now, unless that is so already. */
void network_settle(struct sandbox *sb);
/** network_adopt: an earlier daemon left it; nobody knows whether it is connected. */
void network_adopt(struct sandbox *sb);
/** network_leave: it is about to be destroyed; network_done: it is freed. */
void network_leave(struct sandbox *sb);
void network_done(struct sandbox *sb);
/** network_pool_changed: connects or cuts every session of the pool. */
void network_pool_changed(struct pool *pool);
/** network_restarted: there is a new jailer; connected sessions are asked again, connected stock is
 * destroyed. */
void network_restarted(struct pools *p);

/* flows.c */
/** flow_owner_new: records of this address are this sandbox's from now on; NULL: no memory. */
struct flow_owner *flow_owner_new(struct sandbox *sb, uint32_t address);
uint32_t flow_owner_address(const struct flow_owner *o);
/** flow_owner_leave: the sandbox is not connected any more; late records still find its names.
 * Accepts NULL. */
void flow_owner_leave(struct flow_owner *o);
void flows_done(struct pools *p);

/* sessions.c */
struct session *session_new(struct pool *pool, struct str identifier, const char *guid,
			    int64_t created_us, int64_t accessed_us, struct err *e);
/** session_rearm: after a change of the pool's cooldown. */
void session_rearm(struct session *s);
void session_bind(struct session *s, struct sandbox *sb);
/** session_end: why NULL: deleted or expired, else the sandbox is gone. Frees s. */
void session_end(struct session *s, const struct err *why);
void session_agent_status(struct session *s, const struct agent_status *status);
/** session_later: session_settle() soon, not from inside of whoever is calling. */
void session_later(struct session *s);

/* contexts.c */
int contexts_init(struct session *s, struct err *e);
void contexts_done(struct session *s);
/** contexts_bind: its sandbox came, with the first context's kernel up. */
void contexts_bind(struct session *s);
bool contexts_busy(const struct session *s);
struct context *context_find(const struct session *s, struct str name);
/** context_for: the one that an execution is meant for, made if there is none. */
struct context *context_for(struct session *s, struct str name, struct str language, struct err *e);
/** context_restored: of an execution in the store. */
struct context *context_restored(struct session *s, const char *name, const char *language,
				 struct err *e);
/** context_of_op: where it runs, as `current` or as foreign_op. */
struct context *context_of_op(struct session *s, uint64_t op);
/** context_label: what the agent keeps for the next daemon. */
struct str context_label(const char *name, const char *language, char label[AGENT_LABEL_MAX]);
void contexts_kernel_state(struct session *s, uint32_t number, enum agent_kernel_state state,
			   enum agent_death death);
void contexts_status(struct session *s, const struct agent_status *status);
/** contexts_coming: kernels of the session are on their way. */
bool contexts_coming(const struct session *s);
/** contexts_start_waiting: kernels that waited for memory, if it is there now. */
void contexts_start_waiting(struct session *s);
/** contexts_sweep: frees those that are gone. */
void contexts_sweep(struct session *s);

/* executions.c */
void execution_free(struct execution *x);
/** execution_start: the first of its context's queue. */
void execution_start(struct execution *x);
/** execution_refuse: one that waits; nothing was run. */
void execution_refuse(struct execution *x, const struct err *e);
/** executions_cancel_queued: session_later() finishes them. */
void executions_cancel_queued(struct context *c);
/** execution_interrupt: one that runs is going to be ended; that is its result then. */
void execution_interrupt(struct execution *x);
/** executions_settle: tells watchers of beginnings, and finishes those that were canceled. */
void executions_settle(struct session *s);
void execution_output(struct session *s, uint64_t op, int stream, struct str bytes);
void execution_display(struct session *s, uint64_t op, const struct agent_value *value);
void execution_agent_done(struct session *s, uint64_t op, const struct agent_result *r);
/** execution_settled: the current execution has its result, with the names of refused calls or
 * without. */
void execution_settled(struct context *c);
int executions_restore(struct session *s, struct err *e);
/** executions_fail_queued: those that have not begun; executions_fail_all: every one, and forgets
 * the rest. */
void executions_fail_queued(struct context *c, const struct err *e);
void executions_fail_all(struct session *s, const struct err *e);
/** context_overdue: of context.overdue. */
void context_overdue(void *arg);

/* schedule.c */
/** executions_next: starts what may start, each under its memory limit; gives memory back if
 * nothing is left that runs under less; starts kernels that waited for that. */
void executions_next(struct session *s);
void session_memory_set(struct session *s, const struct err *e);
/** memory_is_back: the next thing that the jailer starts has all memory of the session. */
bool memory_is_back(const struct session *s);
/** memory_heard: whether what runs in an adopted sandbox has the session's own limit. */
void memory_heard(struct session *s, const struct agent_status *status);
/** execution_op: a new operation number, which says to the next daemon what limit it runs under. */
uint64_t execution_op(const struct session *s, uint64_t memory_bytes);

/* terminals.c */
void terminals_status(struct session *s, const struct agent_status *status);
void terminal_gone(struct session *s, uint64_t op);
/** terminals_settle: tells those that were replaced. */
void terminals_settle(struct session *s);
bool terminals_attached(const struct session *s);
void terminals_fail_all(struct session *s, const struct err *e);

/* refusals.c */
/** refusals_ask: true if the context's current execution waits for the names of the system calls
 * that it was refused; execution_settled() follows, soon, or the end of the session. */
bool refusals_ask(struct context *c, const struct agent_result *r);

/* requests.c */
/** request_to_json: NULL without memory; the caller frees. */
char *request_to_json(const struct execution *x);
/**
 * request_from_json: fills x. Context and language are the document's, which the caller frees also
 * after an error; what an earlier version wrote names neither.
 */
int request_from_json(struct execution *x, const char *request, const char **ret_context,
		      const char **ret_language, json_t **ret_doc);

/* results.c */
void result_from_agent(struct execution *x, const struct agent_result *r);
/** result_image: bytes of an image in base64 (caller frees) and its format; NULL if it is none. */
char *result_image(const struct agent_value *v, char *format, size_t format_size, size_t *ret_len);
/** result_add_refused: says at the end of stderr which system calls the sandbox refused. */
void result_add_refused(struct execution *x, const char *const *names, size_t count);
void result_done(struct execution_result *r);
/** result_not_started: why it was not run at all; ERR_CONFLICT: for want of memory. */
void result_not_started(struct execution *x, const struct err *e);
/** result_timeout: for an agent that is silent past the deadline. */
void result_timeout(struct execution *x);
char *result_to_json(const struct execution_result *r);
int result_from_json(const char *text, struct execution_result *ret, struct err *e);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * pool: the controller of session pools: ready sandboxes, the table of sessions, executions, life
 * cycle.
 *
 * Level-triggered: pool documents (arm/) say what should be, the controller makes it so, and can be
 * restarted at any moment (pools_start adopts what an earlier daemon left). Everything runs on the
 * loop's thread; that is what makes "never more than maxConcurrentSessions" and "one identifier,
 * one session" true without locks.
 *
 * Life of a sandbox: CREATING → SHELL (no kernel) → STARTING → READY → ALLOCATED → destroyed. A
 * sandbox is never given to a second identifier.
 */

#include "arm/arm.h"
#include "base/agent_proto.h"
#include "base/kernel_proto.h"
#include "base/list.h"
#include "base/map.h"
#include "image/image.h"
#include "sandbox/agent_link.h"
#include "sandbox/backend.h"
#include "store/store.h"

struct pools;
struct pool;
struct session;
struct execution;

struct pools_config {
	struct store *store;
	struct backend *backend;
	/** runtime_of: what serves a container type; NULL if it is not installed. */
	const struct runtime *(*runtime_of)(const char *container_type, void *arg);
	void *runtime_arg;
	int ready_default;     /* ready sandboxes of a pool that does not say */
	int shells;            /* sandboxes without a kernel kept per pool */
	int starting_max;      /* sandboxes in the making at once, all pools */
	uint32_t output_limit; /* most that outputStreamsMaxLength may ask for */
	uint32_t result_max;   /* bytes of one result with its displays */
	int executions_kept;   /* finished executions remembered per session */
	/* After the deadline of an execution: how long its agent, which alone has the output, is
	 * awaited. Healthy ones need AGENT_TIMEOUT_GRACE_MS, more on a machine that has no time. */
	int answer_wait_ms;
	int names_wait_ms; /* most that a result waits for the names of refused calls */
	uint64_t
		queued_code_max; /* bytes of source text of the executions that wait in a session */
	uint64_t results_kept_max; /* bytes of their results; the last one is kept in any case */
	int contexts_max;  /* per session, the default one included; at most AGENT_KERNELS_MAX */
	int terminals_max; /* per session; at most AGENT_TERMINALS_MAX */
	bool egress;       /* this machine connects the sandboxes of pools that ask for it */
	/** flow_line: one JSON document, without a line break, per record of what a sandbox did on
	 * the network; NULL: nobody keeps them. */
	void (*flow_line)(const char *json, size_t len);
};

int pools_new(const struct pools_config *config, struct pools **ret, struct err *e);
/** pools_free: forgets everything; sandboxes live on. */
void pools_free(struct pools *p);
/**
 * pools_start: when the backend is up: loads images, adopts the sessions in the store, destroys
 * sandboxes nobody owns; then calls ready(arg) once, with an error if an image does not load.
 */
void pools_start(struct pools *p, void (*ready)(void *arg, const struct err *e), void *arg);
/** pools_backend_restarted: to be called by the backend's hook after the first start. */
void pools_backend_restarted(struct pools *p);
/** pools_flow: to be called by the backend's hook of that name. */
void pools_flow(struct pools *p, const struct flow_record *r);
/** pools_document: a pool document changed or went away. */
void pools_document(struct pools *p, const char *key, bool deleted);
/** pools_drain: destroys every sandbox, then calls done. Sessions and their rows go too. */
void pools_drain(struct pools *p, void (*done)(void *arg), void *arg);

struct pool *pool_find(struct pools *p, struct str key);
const struct session_pool_spec *pool_spec(const struct pool *pool);
const struct pools_config *pool_config(const struct pool *pool);
/** pool_runtime: NULL while its image is not installed. */
const struct runtime *pool_runtime(const struct pool *pool);
struct pool_counts {
	size_t sessions, ready, shells, starting;
};
struct pool_counts pool_counts(const struct pool *pool);

/* Sessions. */
#define IDENTIFIER_MIN 4
#define IDENTIFIER_MAX 128
/** identifier_check: length and the documented set of bytes (azure-api.md §1.2). */
int identifier_check(struct str identifier, struct err *e);
/**
 * session_open: the session of an identifier, made if there is none. Never blocks: a new session
 * may still wait for its sandbox. ERR_SESSIONS_MAX at the pool's limit. Counts as an access.
 */
struct session *session_open(struct pool *pool, struct str identifier, struct err *e);
/** session_find: only if it exists; not an access. */
struct session *session_find(struct pool *pool, struct str identifier);
void session_touch(struct session *s);
/** session_delete: ends it now; requests that wait on it fail. */
void session_delete(struct session *s);

struct session_info {
	const char *identifier;
	const char *guid;
	int64_t created_us;
	int64_t accessed_us;
	int64_t expires_us;
	struct pool *pool;
	int64_t allocation_us; /* how long it waited for its sandbox */
};
struct session_info session_info(const struct session *s);
/** session_each: in order of creation, from `skip`, at most limit; returns the
 * number in the pool. */
size_t session_each(struct pool *pool, size_t skip, size_t limit,
		    void (*fn)(const struct session *s, void *arg), void *arg);

/**
 * session_when_open: calls open(arg, link) as soon as the sandbox can be talked to, and has said
 * what an earlier daemon left in it (maybe at once, from inside), or failed. The waiter is freed by
 * either; session_wait_cancel() before that drops it.
 */
struct session_wait;
struct session_wait *session_when_open(struct session *s,
				       void (*open)(void *arg, struct session *s,
						    struct agent_link *link),
				       void (*failed)(void *arg, const struct err *e), void *arg);
void session_wait_cancel(struct session_wait *w);

/*
 * Contexts: the kernels of a session, each with a name, a language and a state of its own. Every
 * session has `default`, in the first language of its pool's image. Executions of one context run
 * one at a time in arrival order; contexts run side by side. Others are made by
 * context_open() or by the first execution that names them, and live until they are deleted or the
 * session ends.
 */
#define CONTEXT_NAME_MAX 64
#define CONTEXT_DEFAULT  "default"

struct context_info {
	const char *name;
	const char *language;
	const char *state; /* "starting", "idle", "busy" */
	size_t queue_len;
	size_t executions; /* that it has begun */
};

/** context_name_check: 1 to CONTEXT_NAME_MAX letters, digits, '-', '_' and '.'. */
int context_name_check(struct str name, struct err *e);
/**
 * language_find: what the pool's image calls a language that a caller named: in any case, or by an
 * alias ("js", "bash"). ERR_INVALID names those that it has. Below, languages are as found here.
 */
int language_find(const struct pool *pool, struct str name, struct str *ret, struct err *e);

/**
 * context_open: makes it if there is none of that name. ERR_INVALID: a bad name, or a language that
 * the image does not have (the message lists those it has); ERR_CONFLICT: it exists with another
 * language; ERR_QUOTA: contexts_max. language "": that of an existing one, else the default.
 */
int context_open(struct session *s, struct str name, struct str language, struct context_info *ret,
		 struct err *e);
/** context_get: ERR_NO_CONTEXT. */
int context_get(const struct session *s, struct str name, struct context_info *ret, struct err *e);
/** context_delete: ends its kernel; its executions are canceled; its name is free at once.
 * ERR_NO_CONTEXT; ERR_CONFLICT for `default`, which context_restart() is for: a fresh kernel; what
 * runs is canceled, what waits runs then. */
int context_delete(struct session *s, struct str name, struct err *e);
int context_restart(struct session *s, struct str name, struct err *e);
void context_each(const struct session *s, void (*fn)(const struct context_info *c, void *arg),
		  void *arg);

/* Executions. */
enum execution_state { EXECUTION_QUEUED, EXECUTION_RUNNING, EXECUTION_FINISHED };

/** Owned text that may contain NUL characters; ptr is never NULL in a finished result. */
struct text {
	char *ptr;
	size_t len;
};

static inline struct str text_str(const struct text *t)
{
	return (struct str){ t->ptr ? t->ptr : "", t->len };
}

/** What an execution left behind; text is valid UTF-8, cut to its limits with a mark. */
struct execution_result {
	enum agent_exec_status status; /* OK … OOM */
	struct text out;
	struct text err; /* with traceback, or how it ended */
	struct text error_name;
	struct text error_text;
	enum kernel_value kind;
	struct text value;   /* IMAGE: base64 */
	char format[24];     /* IMAGE */
	json_t *displays;    /* array of {"type","format","base64_data"}; NULL if none */
	int64_t duration_us; /* of the code */
};

/** Who watches an execution while it runs; called from the loop, between session_execute() and
 * `done`, with the `arg` of that. */
struct execution_watcher {
	void (*started)(void *arg, struct execution *x);
	/** output: bytes as the program wrote them, maybe half a character at an end. At most
	 * AGENT_STREAM_WINDOW until execution_credit(). stream: 1 stdout, 2 stderr. */
	void (*output)(void *arg, struct execution *x, int stream, struct str bytes);
	/** display: an image in base64. */
	void (*display)(void *arg, struct execution *x, const char *format, struct str base64);
};

struct execution_params {
	struct str code;     /* argv: words, each ended by a NUL byte */
	bool argv;           /* code is a program and its arguments */
	bool command;        /* kept for who reads the result: it was asked for as a command, its
				value is an exit code */
	struct str context;  /* name; empty: that of the language, or `default` */
	struct str language; /* empty: the context's. Without a context: the first context is
				`default` for the image's first language, else named after it */
	const struct execution_watcher *watcher; /* NULL: nobody; not for async ones */
	bool async;
	const char *id;             /* caller-chosen, or NULL */
	const char *execution_type; /* as the caller spelled it */
	uint32_t timeout_ms;        /* 0: none */
	uint32_t output_max;
	uint64_t memory_bytes; /* limit while it runs, below the session's; 0: none */
};

struct execution {
	struct list node; /* queue of its context, or recent */
	struct session *session;
	struct context *context; /* NULL: FINISHED */
	uint64_t arrival;        /* its place among those of the session */
	char id[128];
	char execution_type[24];
	uint64_t op;
	bool async;
	bool argv;
	bool command;
	bool canceled;                           /* asked for; its result will say so */
	const struct execution_watcher *watcher; /* NULL: nobody (any more) */
	bool streamed;                           /* the agent was told that somebody watches */
	bool heard;                              /* output of it has come: it does run */
	bool told_started;                       /* its watcher was */
	uint32_t stream_window;                  /* bytes of output that may come from the agent */
	uint32_t stream_returned;                /* passed on, and not credited to the agent yet */
	uint32_t display_count;
	uint64_t display_bytes;
	enum execution_state state;
	uint32_t timeout_ms;
	uint32_t output_max;
	uint64_t memory_bytes;
	char *code; /* until started */
	size_t code_len;
	struct execution_result result; /* when FINISHED, or asking */
	bool asking;                    /* has its result, waits for the names of refused calls */
	bool unstored;                  /* finished, and the store did not take it yet */
	uint64_t kept_bytes;            /* FINISHED: of session.recent_bytes */
	int64_t created_us;
	int64_t queued_ns, started_ns, finished_ns;
	/* Who waits for it: called once; NULL when the client went away. */
	void (*done)(void *arg, struct execution *x, const struct err *e);
	void *arg;
};

/**
 * session_execute: queues an execution; makes its context if there is none, with the errors of
 * context_open(). ERR_QUEUE_FULL at the pool's queue length. Asynchronous ones are in the store
 * when this returns, and need a session that is open (session_when_open). `done` (may be NULL) is
 * called once, later: e is NULL and x finished, or e says why the session ended first. x belongs to
 * the session; between callbacks keep its id, not the pointer, unless `done` is registered
 * (execution_detach drops that, and the watcher; one that waits is forgotten by it, unless it is
 * asynchronous or `keep` says that it is to run all the same).
 */
struct execution *session_execute(struct session *s, const struct execution_params *p,
				  void (*done)(void *arg, struct execution *x, const struct err *e),
				  void *arg, struct err *e);
void execution_detach(struct execution *x, bool keep);
/** execution_credit: bytes of its output that its watcher has passed on. */
void execution_credit(struct execution *x, size_t bytes);
/** execution_cancel: interrupts, then kills; or takes it out of the queue. Its result is CANCELED
 * and comes through `done` as any other, never from inside. Finished ones stay as they are. */
void execution_cancel(struct execution *x);
/** execution_find: queued, running or still remembered. */
struct execution *execution_find(struct session *s, struct str id);

/*
 * Terminals: interactive programs in a session. One lives until its program ends, also while nobody
 * is attached; who attaches takes it over from whoever was. Attached, it counts as use of its
 * session.
 */
struct terminal;

struct terminal_events {
	/** attached: id (32 hexadecimal digits) finds it again; fresh: it was just started. */
	void (*attached)(void *arg, const char *id, bool fresh);
	/** output: at most AGENT_STREAM_WINDOW until terminal_credit(). */
	void (*output)(void *arg, struct str bytes);
	void (*drained)(void *arg);
	/** The last callback, exactly one of: */
	void (*ended)(void *arg, enum agent_death death, uint32_t code);
	void (*replaced)(void *arg); /* another one attached */
	void (*failed)(void *arg, const struct err *e);
};

struct terminal_params {
	struct str id;    /* attach to this one; empty: a new one */
	uint16_t columns; /* 1 to 1000 */
	uint16_t rows;
	struct str term;    /* empty: xterm-256color */
	struct str command; /* of a new one; empty: the image's shell */
};

/** terminal_open: waits for the session's sandbox by itself. ERR_QUOTA: terminals_max;
 * ERR_NO_TERMINAL; ERR_INVALID. */
struct terminal *terminal_open(struct session *s, const struct terminal_params *p,
			       const struct terminal_events *ev, void *arg, struct err *e);
size_t terminal_input(struct terminal *t, const char *data, size_t len);
void terminal_credit(struct terminal *t, size_t bytes);
void terminal_resize(struct terminal *t, uint16_t columns, uint16_t rows);
void terminal_signal(struct terminal *t, int signum);
/** terminal_detach: no further callback; the program goes on. Accepts NULL. */
void terminal_detach(struct terminal *t);
/** terminal_close: hangs up; `ended` follows. */
void terminal_close(struct terminal *t);
/** terminal_delete: hangs up one of an open session; who is attached gets `ended`.
 * ERR_NO_TERMINAL. */
int terminal_delete(struct session *s, struct str id, struct err *e);
/** terminal_each: those of a session, attached or not. */
void terminal_each(const struct session *s, void (*fn)(const char *id, bool attached, void *arg),
		   void *arg);

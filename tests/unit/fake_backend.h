/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * fake_backend: a backend and agents that say what the test says, with a pool controller on top.
 *
 * Answers come from the loop, as those of a real one: at once for what no test decides, or when the
 * test gives them (memory, refused, network, what is held). Agents are sockets: their frames are
 * built and read here, by hand.
 */

#include "arm/arm.h"
#include "base/log.h"
#include "base/own.h"
#include "base/wire.h"
#include "loop/loop.h"
#include "pool/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#define SUB         "00000000-0000-0000-0000-000000000000"
#define GROUP       "/subscriptions/" SUB "/resourceGroups/g"
#define POOL        GROUP "/providers/Microsoft.App/sessionPools/pool1"
#define KEY         "/subscriptions/" SUB "/resourcegroups/g/providers/microsoft.app/sessionpools/pool1"
#define IMAGE       "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define ADOPTED_SID "00000000000000000000000000000001"
#define MIB         (1u << 20)

#define FAKE_CALLS_MAX 256
#define FAKE_BOXES_MAX 64
#define FAKE_HEARD_MAX 512

struct fake_box {
	char sid[33];
	int agent_fd; /* the agent's end of the link, -1 none */
	bool destroyed;
	struct buf in;
};

struct fake_call {
	char sid[33];
	bool on;
	bool answered;
	backend_done_fn done;
	backend_refused_fn refused;
	backend_network_fn network;
	backend_kernel_fn kernel;
	void *arg;
};

/** A frame that the daemon sent to the last sandbox. */
struct fake_heard {
	enum agent_msg type;
	uint64_t op;
	uint32_t first; /* of its payload: kernel, credit, … */
	char payload[256];
	size_t len; /* of all of it */
};

extern struct fake {
	struct store *store;
	struct arm *arm;
	struct pools *pools;
	struct fake_box boxes[FAKE_BOXES_MAX];
	size_t box_count;
	struct fake_call memory[FAKE_CALLS_MAX], refused[FAKE_CALLS_MAX], network[FAKE_CALLS_MAX],
		kernels[FAKE_CALLS_MAX];
	size_t memory_count, refused_count, network_count, kernel_count;
	size_t memory_answered, refused_answered, kernels_answered;
	const char *listed;              /* the sandbox that an earlier daemon left */
	bool hold_creates, hold_kernels; /* the test answers */
	bool silent_kernels;             /* started, but the agent says nothing of them */
	bool network_answers;            /* by itself */
	backend_done_fn held_create;
	void *held_create_arg;
	char asked[1024]; /* "memory 64, kernel, refused, " in the order of the calls */
	struct fake_heard heard[FAKE_HEARD_MAX];
	size_t heard_count;
} fake;

extern struct backend fake_backend;
extern const struct runtime fake_runtime;

/** fake_setup, fake_teardown: of a test; the latter after fake.pools. */
int fake_setup(void **state);
int fake_teardown(void **state);
/** fake_config: what most tests want; start: with this document of the pool's properties. */
struct pools_config fake_config(void);
void fake_start(const struct pools_config *config, const char *properties);
void fake_put_pool(const char *properties);
/** FAKE_ONE_SESSION: properties of a pool that has room for one and makes nothing in advance. */
#define FAKE_ONE_SESSION                                                                           \
	"\"scaleConfiguration\":{\"maxConcurrentSessions\":1,\"readySessionInstances\":0}"
/** fake_open_session: 'ann-1' with an idle kernel, in a pool that is started for it. */
struct session *fake_open_session(const struct pools_config *config);
/** fake_adopt_session: 'ann-1' of an earlier daemon; its agent has said nothing yet. */
struct session *fake_adopt_session(const struct pools_config *config);
/** fake_session: NULL if the pool has none of that identifier. */
struct session *fake_session(const char *identifier);
/** fake_store_adopted: a row of a session 'ann-1' in ADOPTED_SID, as an earlier daemon left it. */
void fake_store_adopted(void);

void run_until(bool (*condition)(void));
/** settle: everything that happens without an answer of the test has happened. */
void settle(void);

struct fake_box *box_of(const char *sid);
struct fake_box *add_box(const char *sid);
/** the_box: the last one. */
struct fake_box *the_box(void);

void answer_memory(enum err_code code);
void answer_refused(const char *name);
void answer_kernel(enum err_code code);
/** answer_network: the n-th call; each sandbox has an address of its own. */
void answer_network(size_t n, enum err_code code);
uint32_t address_of(const char *sid);

#define assert_asked(what)                                                                         \
	do {                                                                                       \
		assert_string_equal(fake.asked, what);                                             \
		fake.asked[0] = '\0';                                                              \
	} while (0)

/* What the agent says. */
void add_frame(struct buf *b, enum agent_msg type, uint64_t op, struct str payload);
void say_to(struct fake_box *box, struct buf *frames);
void say(struct buf *frames);
void say_frame(enum agent_msg type, uint64_t op, struct str payload);
void say_kernel_of(struct fake_box *box, uint32_t kernel, enum agent_kernel_state state,
		   enum agent_death death);
void say_kernel(enum agent_kernel_state state, enum agent_death death);
void say_kernel_n(uint32_t kernel, enum agent_kernel_state state, enum agent_death death);
void add_done(struct buf *b, uint64_t op, enum agent_exec_status status,
	      enum agent_kernel_state kernel, const char *text);
void say_done(uint64_t op, enum agent_exec_status status, enum agent_kernel_state kernel,
	      const char *text);

/* What it heard; settle() reads. */
size_t heard_count(enum agent_msg type);
/** heard_nth: the n-th of a type, from 0; the test fails if there is none. */
const struct fake_heard *heard_nth(enum agent_msg type, size_t n);
const struct fake_heard *heard_last(enum agent_msg type);

/* Executions, and what became of them. */
struct outcome {
	struct execution *x; /* until it is done */
	int calls;
	enum err_code code;
	enum agent_exec_status status;
	char text[512]; /* of stderr, or of the error */
};

/** fake_execution: of "1", by nobody in particular. */
struct execution_params fake_execution(void);
/** run_params: must be accepted. */
void run_params(struct session *s, struct outcome *o, const struct execution_params *p);
/** executed: the `done` of an outcome. */
void executed(void *arg, struct execution *x, const struct err *e);
/** assert_started: the agent has heard of that many. */
void assert_started(size_t count);
void assert_outcome(const struct outcome *o, enum agent_exec_status status, const char *text);
void assert_failed(const struct outcome *o, enum err_code code);

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from the daemon's side of the agent's connection. The first byte says whether a kernel is
 * there. Whatever comes: every reply is one the daemon accepts, limits hold, no path leads out of
 * the data root, and the end of the connection gives everything back.
 */
#include "agent_world.h"

#include <sys/socket.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t ready[] = { 4, 0, 0, 0, KERNEL_READY, 42, 0, 0, 0 };
	struct agent_world w;
	struct stat before;
	struct stat after;

	if (!size)
		return 0;
	stat("/etc", &before);
	agent_world_open(&w);
	if (data[0] & 1) {
		agent_world_attach(&w);
		agent_world_feed(&w, w.kernel_fd, ready, sizeof(ready));
	}
	agent_world_feed(&w, w.daemon_fd, data + 1, size - 1);
	if (data[0] & 2)
		kernel_deadline(&w.agent);
	agent_world_close(&w);
	/* The link "out" leads there. */
	stat("/etc", &after);
	if (before.st_mtim.tv_sec != after.st_mtim.tv_sec ||
	    before.st_mtim.tv_nsec != after.st_mtim.tv_nsec)
		abort();
	return 0;
}

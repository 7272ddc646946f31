/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from the daemon's side of the agent's connection. The first byte says whether a kernel is
 * there. Whatever comes: every reply is one the daemon accepts, limits hold, no path leads out of
 * the data root, and the end of the connection gives everything back.
 */
#include "agent_world.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_world w;

	if (!size)
		return 0;
	agent_world_open(&w);
	if (data[0] & 1) {
		agent_world_attach(&w);
		agent_world_ready(&w);
	}
	agent_world_feed(&w, w.daemon_fd, data + 1, size - 1);
	if (data[0] & 2)
		kernel_deadline(&w.agent);
	agent_world_close(&w);
	return 0;
}

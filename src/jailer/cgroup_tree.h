/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * cgroup_tree: how a controller of a v2 tree gets down to a directory of ours. Jailer only, at its
 * start.
 *
 * A v2 cgroup hands controllers to its children only while no process is in it, save for the root
 * of the machine. Inside a container with a cgroup namespace of its own, what is seen as the root
 * is an ordinary cgroup with the container's processes in it; they are moved to a leaf beside ours.
 */

#include "base/err.h"

/** The leaf that the processes of a container's root move to. */
#define CGROUP_HOST_LEAF "bivouac.host"

/**
 * cgroup_tree_vacate: sees to it that no process is in the visible root. Moves them only if this
 * process is one of them, and only if all can be moved. Returns how many were moved.
 */
int cgroup_tree_vacate(int root_dfd, struct err *e);
/** cgroup_tree_hand_down: the root, `bivouac` and bivouac/<instance> pass the controller on. */
int cgroup_tree_hand_down(int root_dfd, const char *instance, const char *controller,
			  struct err *e);

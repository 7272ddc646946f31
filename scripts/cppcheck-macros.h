/* SPDX-License-Identifier: Apache-2.0 */
/* For cppcheck only, which does not read the system's headers. */
#define json_array_foreach(a, i, v)                                                                \
	for (i = 0; i < json_array_size(a) && (v = json_array_get(a, i)); i++)

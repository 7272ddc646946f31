/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * str_hash: a hash secret per session in an interpreter that is forked, not started.
 *
 * All kernels of a zygote inherit one hash secret, and a dict cannot survive a change of the hashes
 * of its keys. But only strings that were hashed before the fork can be keys then. So: the str hash
 * function is replaced before Python starts; while the zygote loads, every hash it computes is
 * remembered; after the fork, text whose zygote hash is remembered keeps it, and all other text is
 * hashed under a secret of this session. Equal strings hash equal at all times, old dicts stay
 * valid, no page is touched for it, and an attacker's strings meet an unknown secret. What stays
 * shared by the sessions of one zygote: hashes of names the libraries use, of bytes and of dates.
 */

void str_hash_install(void); /* before Py_Initialize */
void str_hash_reseed(void);  /* in the forked kernel */

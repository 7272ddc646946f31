/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * napi: the part of Node-API that native.c uses, declared here.
 *
 * Node-API is a stable ABI (version 4 of it is in every Node since 10.16), and its headers come in
 * packages that exclude each other (Debian's libnode-dev, NodeSource's nodejs), so that building
 * Bivouac would depend on which Node the machine has. nodejs.org/api/n-api.html has the contracts.
 * Nothing is linked: the symbols are those of the node process that loads the module.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct napi_env_opaque *napi_env;
typedef struct napi_value_opaque *napi_value;
typedef struct napi_callback_info_opaque *napi_callback_info;
typedef struct napi_threadsafe_function_opaque *napi_threadsafe_function;

typedef int napi_status; /* 0 is success */
typedef napi_value (*napi_callback)(napi_env env, napi_callback_info info);
typedef void (*napi_finalize)(napi_env env, void *data, void *hint);
typedef void (*napi_threadsafe_function_call_js)(napi_env env, napi_value function, void *context,
						 void *data);

enum { NAPI_STRING = 4 };                               /* napi_valuetype */
enum { NAPI_UINT32_ARRAY = 6, NAPI_FLOAT64_ARRAY = 8 }; /* napi_typedarray_type */
enum { NAPI_NONBLOCKING = 0 };                          /* napi_threadsafe_function_call_mode */
#define NAPI_AUTO_LENGTH SIZE_MAX

napi_status napi_get_cb_info(napi_env env, napi_callback_info info, size_t *argc, napi_value *argv,
			     napi_value *this_arg, void **data);
napi_status napi_create_function(napi_env env, const char *name, size_t length, napi_callback cb,
				 void *data, napi_value *ret_function);
napi_status napi_set_named_property(napi_env env, napi_value object, const char *name,
				    napi_value value);
napi_status napi_typeof(napi_env env, napi_value value, int *ret_type);
napi_status napi_get_undefined(napi_env env, napi_value *ret_value);
napi_status napi_get_boolean(napi_env env, bool value, napi_value *ret_value);
napi_status napi_create_int32(napi_env env, int32_t value, napi_value *ret_value);
napi_status napi_create_double(napi_env env, double value, napi_value *ret_value);
napi_status napi_create_string_utf8(napi_env env, const char *text, size_t length,
				    napi_value *ret_value);
napi_status napi_get_value_int32(napi_env env, napi_value value, int32_t *ret_value);
napi_status napi_get_value_uint32(napi_env env, napi_value value, uint32_t *ret_value);
napi_status napi_get_value_string_utf8(napi_env env, napi_value value, char *buffer, size_t size,
				       size_t *ret_length);
napi_status napi_get_typedarray_info(napi_env env, napi_value array, int *ret_type,
				     size_t *ret_length, void **ret_data, napi_value *ret_buffer,
				     size_t *ret_offset);
napi_status napi_get_buffer_info(napi_env env, napi_value buffer, void **ret_data,
				 size_t *ret_length);
napi_status napi_call_function(napi_env env, napi_value self, napi_value function, size_t argc,
			       const napi_value *argv, napi_value *ret_value);
napi_status napi_throw_error(napi_env env, const char *code, const char *message);
napi_status napi_create_threadsafe_function(napi_env env, napi_value function,
					    napi_value async_resource, napi_value resource_name,
					    size_t queue_max, size_t thread_count,
					    void *finalize_data, napi_finalize finalize,
					    void *context, napi_threadsafe_function_call_js call_js,
					    napi_threadsafe_function *ret_function);
napi_status napi_call_threadsafe_function(napi_threadsafe_function function, void *data, int mode);
napi_status napi_unref_threadsafe_function(napi_env env, napi_threadsafe_function function);

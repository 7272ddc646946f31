/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/arm.h"

static const struct json_shape shape[] = {
	{ .name = "location", .kind = JSON_KIND_STRING },
	{ .name = "tags", .kind = JSON_KIND_MAP },
	{ .name = "managedBy", .kind = JSON_KIND_STRING },
	{ 0 },
};

static int validate(struct arm *arm, const json_t *old, json_t *wanted, const char *api_version,
		    struct err *e)
{
	(void)arm;
	(void)old;
	(void)api_version;
	if (json_object_set_new(wanted, "properties",
				json_pack("{s:s}", "provisioningState", "Succeeded")) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return 0;
}

static json_t *render(struct arm *arm, const json_t *doc, const char *api_version,
		      const char *base_url)
{
	json_t *out = json_deep_copy(doc);

	(void)arm;
	(void)api_version;
	(void)base_url;
	if (out)
		json_object_del(out, "systemData"); /* the service shows none for groups */
	return out;
}

const struct arm_type arm_resource_group = {
	.name = "Microsoft.Resources/resourceGroups",
	.shape = shape,
	.validate = validate,
	.render = render,
	.container = true,
};

// SPDX-License-Identifier: Apache-2.0
'use strict';

// Values that are images: bytes of a PNG or JPEG, or an object with a MIME type for a key
// ({'image/png': base64 or bytes}), as notebooks know it.

const { types } = require('util');
const { VALUE, VALUE_MAX, bytes } = require('./proto.js');

const { isBuffer, concat, from } = Buffer;
const { getOwnPropertyDescriptor } = Object;
const { isUint8Array, isProxy } = types;

const MIME_TYPES = ['image/png', 'image/jpeg', 'image/svg+xml'];
const MIME_PREFIX = 'image/'.length;
const MAGIC = {
	png: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a],
	jpeg: [0xff, 0xd8, 0xff],
};

function image(format, data) {
	if (data.length + 1 + format.length > VALUE_MAX) {
		const note = `[${format} image of ${data.length} bytes left out: too large]`;
		return { kind: VALUE.TEXT, bytes: bytes(note), image: true };
	}
	const head = bytes(` ${format}`);
	head[0] = format.length;
	return { kind: VALUE.IMAGE, bytes: concat([head, data]), image: true };
}

function begins(data, magic) {
	for (let i = 0; i < magic.length; i++) {
		if (data[i] !== magic[i]) {
			return false;
		}
	}
	return true;
}

function ofBytes(data) {
	for (const format of ['png', 'jpeg']) {
		if (begins(data, MAGIC[format])) {
			return image(format, data);
		}
	}
	return null;
}

// A copy without the prototype a user may have changed, and of this moment.
function copied(data) {
	return isBuffer(data) ? data : from(data.buffer, data.byteOffset, data.byteLength);
}

function ofBundle(bundle) {
	for (let i = 0; i < MIME_TYPES.length; i++) {
		const property = getOwnPropertyDescriptor(bundle, MIME_TYPES[i]);
		const data = property?.value;
		const format = MIME_TYPES[i].slice(MIME_PREFIX);
		if (typeof data === 'string') {
			return image(format, format === 'svg+xml' ? bytes(data) : from(data, 'base64'));
		}
		if (isUint8Array(data)) {
			return image(format, copied(data));
		}
	}
	return null;
}

/** { kind, bytes, image } of an object that is an image, else null. Runs no user code. */
function of(value) {
	if (isProxy(value)) {
		return null;
	}
	return isUint8Array(value) ? ofBytes(copied(value)) : ofBundle(value);
}

module.exports = { of };

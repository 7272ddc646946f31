// SPDX-License-Identifier: Apache-2.0
'use strict';

// Frames of src/base/kernel_proto.h. A payload that breaks the protocol throws ProtocolError.

const { Buffer } = require('buffer');

const RUN = 2;
const READY = 16;
const DISPLAY = 17;
const DONE = 18;
const RUN_ARGV = 2;
const OK = 0;
const ERROR = 1;
const INTERRUPTED = 2;
const VALUE = { NONE: 0, NULL: 1, BOOL: 2, INT: 3, FLOAT: 4, STR: 5, TEXT: 6, IMAGE: 7 };

const HEADER_SIZE = 5;
const FRAME_MAX = 16 * 1024 * 1024;
// What a value may take of a frame: the rest is for headers, the error name and the traceback.
const VALUE_MAX = FRAME_MAX - 64 * 1024;

// Captured: user code may replace what it finds on prototypes and in globals.
const { alloc, allocUnsafe, concat, from } = Buffer;
const EMPTY = alloc(0);

class ProtocolError extends Error {}

/** Puts frames together from the chunks of a stream; calls onFrame(type, payload). */
class Reader {
	constructor(onFrame) {
		this.onFrame = onFrame;
		this.chunks = [];
		this.have = 0;
	}

	push(chunk) {
		this.chunks[this.chunks.length] = chunk;
		this.have += chunk.length;
		let data = null;
		while (this.have >= HEADER_SIZE) {
			if (data === null && this.chunks[0].length < HEADER_SIZE) {
				data = this.joined();
			}
			data = data ?? this.chunks[0];
			const size = data.readUInt32LE(0);
			if (size > FRAME_MAX) {
				throw new ProtocolError('frame too large');
			}
			if (this.have < HEADER_SIZE + size) {
				break;
			}
			data = this.joined();
			this.onFrame(data[4], data.subarray(HEADER_SIZE, HEADER_SIZE + size));
			data = data.subarray(HEADER_SIZE + size);
			this.have = data.length;
			this.chunks = [data];
		}
	}

	joined() {
		const data = this.chunks.length === 1 ? this.chunks[0] : concat(this.chunks);
		this.chunks = [data];
		return data;
	}

	end() {
		if (this.have > 0) {
			throw new ProtocolError('end of file inside a frame');
		}
	}
}

function parseRun(payload) {
	if (payload.length < 9 || payload.readUInt32LE(5) !== payload.length - 9) {
		throw new ProtocolError('RUN: wrong length');
	}
	return {
		number: payload.readUInt32LE(0),
		flags: payload[4],
		code: payload.toString('utf8', 9),
	};
}

// The blobs of a frame come after the bytes of its head.
function frame(type, head, blobs) {
	let size = head.length;
	for (let i = 0; i < blobs.length; i++) {
		size += 4 + blobs[i].length;
	}
	const data = allocUnsafe(HEADER_SIZE + size);
	data.writeUInt32LE(size, 0);
	data[4] = type;
	let at = HEADER_SIZE;
	for (let i = 0; i < head.length; i++) {
		data[at++] = head[i];
	}
	for (let i = 0; i < blobs.length; i++) {
		data.writeUInt32LE(blobs[i].length, at);
		blobs[i].copy(data, at + 4);
		at += 4 + blobs[i].length;
	}
	return data;
}

function ready(pid) {
	const data = allocUnsafe(HEADER_SIZE + 4);
	data.writeUInt32LE(4, 0);
	data[4] = READY;
	data.writeUInt32LE(pid, HEADER_SIZE);
	return data;
}

function display(value) {
	return frame(DISPLAY, [value.kind], [value.bytes]);
}

function done(value) {
	return frame(DONE, [OK, value.kind], [value.bytes, EMPTY, EMPTY, EMPTY]);
}

/** error: { name, text, traceback }, each a Buffer. */
function failed(status, error) {
	return frame(DONE, [status, VALUE.NONE],
		[EMPTY, error.name, error.text, error.traceback]);
}

function bytes(text) {
	return from(text, 'utf8');
}

/** UTF-8 of a text, at most max bytes: head and tail kept, the cut marked. */
function bounded(text, max) {
	const data = text.length <= max ? bytes(text) : null;
	if (data !== null && data.length <= max) {
		return data;
	}
	const half = (max >> 1) - 32;
	const head = whole(bytes(text.slice(0, half)).subarray(0, half), false);
	const tail = bytes(text.slice(-half));
	const end = whole(tail.subarray(Math.max(0, tail.length - half)), true);
	return concat([head, bytes('\n[... text left out ...]\n'), end]);
}

// Cuts off what is left of a character at the end, or with `front` at the beginning.
function whole(data, front) {
	let start = 0;
	let end = data.length;
	while (front && start < end && (data[start] & 0xc0) === 0x80) {
		start++;
	}
	if (!front) {
		let lead = end - 1;
		while (lead >= 0 && (data[lead] & 0xc0) === 0x80) {
			lead--;
		}
		const first = lead >= 0 ? data[lead] : 0;
		const need = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
		end = lead >= 0 && end - lead < need ? lead : end;
	}
	return data.subarray(start, end);
}

module.exports = {
	RUN, RUN_ARGV, OK, ERROR, INTERRUPTED, VALUE, VALUE_MAX, EMPTY, ProtocolError, Reader,
	parseRun, ready, display, done, failed, bytes, bounded, whole,
};

// SPDX-License-Identifier: Apache-2.0
'use strict';

// process.stdout and process.stderr. Node's own on a pipe queue in memory what the reader is slow
// to take, and lose it; these write in the call, and a full pipe blocks.

const { Writable } = require('stream');
const { isUint8Array } = require('util').types;

const { defineProperty, getOwnPropertyDescriptor, hasOwn } = Object;
const { process } = globalThis; // user code may replace it
const { nextTick } = process;
const { from } = Buffer;
const PUT = Symbol('put');

class Output extends Writable {
	constructor(fd, write) {
		super({ decodeStrings: true, emitClose: false, autoDestroy: false });
		this.fd = fd;
		this.muted = false;
		this.waiting = null; // callbacks of writes: { done, times }
		this._type = 'pipe';
		this._isStdio = true;
		const put = (data) => {
			if (!this.muted) {
				write(fd, data);
			}
		};
		defineProperty(this, PUT, { value: put });
		defineProperty(this, '_write', {
			value: (chunk, encoding, callback) => {
				put(chunk);
				callback();
			},
		});
	}

	// Past Writable: it keeps account of a write, which must not end half-way if the cell does.
	write(chunk, encoding, callback) {
		const done = typeof encoding === 'function' ? encoding : callback;
		const named = typeof encoding === 'string' ? encoding : 'utf8';
		if (typeof chunk !== 'string' && !isUint8Array(chunk)) {
			return super.write(chunk, encoding, callback); // it says what is wrong
		}
		this[PUT](typeof chunk === 'string' ? from(chunk, named) : chunk);
		if (typeof done === 'function') {
			this.written(done);
		}
		return true;
	}

	// console.log() has one callback for all it writes: a loop of it must not fill the memory.
	written(done) {
		if (this.waiting?.done === done) {
			this.waiting.times++;
			return;
		}
		const waiting = { done, times: 1 };
		this.waiting = waiting;
		nextTick(() => {
			if (this.waiting === waiting) {
				this.waiting = null;
			}
			for (; waiting.times > 0; waiting.times--) {
				done(null);
			}
		});
	}

	// A session's output outlives the program that "ends" it.
	end(chunk, encoding, callback) {
		const done = [chunk, encoding, callback].find((one) => typeof one === 'function');
		if (chunk !== undefined && chunk !== null && typeof chunk !== 'function') {
			this.write(chunk, typeof encoding === 'string' ? encoding : undefined);
		}
		if (done !== undefined) {
			nextTick(done);
		}
		return this;
	}

	destroy() {
		return this;
	}

	destroySoon() {
		return this;
	}
}

/** Installs the two streams; returns { out, err, mute(bool), restore() }. */
function install(native) {
	const streams = { stdout: new Output(1, native.write), stderr: new Output(2, native.write) };
	const getters = {
		stdout: () => streams.stdout,
		stderr: () => streams.stderr,
	};
	const names = ['stdout', 'stderr'];

	function put(name) {
		defineProperty(process, name, {
			configurable: true, enumerable: true, get: getters[name], set: undefined,
		});
	}

	function restoreOne(name) {
		if (getOwnPropertyDescriptor(process, name)?.get !== getters[name]) {
			put(name);
		}
		if (hasOwn(streams[name], 'write')) {
			delete streams[name].write;
		}
	}

	names.forEach(put);
	return {
		mute(muted) {
			streams.stdout.muted = streams.stderr.muted = muted;
		},
		// After a cell: what it put in place of the streams and descriptors is taken away.
		restore() {
			native.restore();
			restoreOne(names[0]);
			restoreOne(names[1]);
		},
	};
}

module.exports = { install };

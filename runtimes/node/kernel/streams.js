// SPDX-License-Identifier: Apache-2.0
'use strict';

// process.stdout and process.stderr. Node's own on a pipe queue in memory what the reader is slow
// to take, and lose it; these write in the call, and a full pipe blocks.

const { Writable } = require('stream');

const { defineProperty, getOwnPropertyDescriptor, hasOwn } = Object;
const { process } = globalThis; // user code may replace it
const { nextTick } = process;

class Output extends Writable {
	constructor(fd, write) {
		super({ decodeStrings: true, emitClose: false, autoDestroy: false });
		this.fd = fd;
		this.muted = false;
		this._type = 'pipe';
		this._isStdio = true;
		defineProperty(this, '_write', {
			value: (chunk, encoding, callback) => {
				if (!this.muted) {
					write(fd, chunk);
				}
				callback();
			},
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

// SPDX-License-Identifier: Apache-2.0
'use strict';

// The Node kernel: starts with its socket at descriptor 3 and its output at 1 and 2
// (src/base/kernel_proto.h), answers RUN after RUN, and ends when the socket does.

const { Socket } = require('net');
const path = require('path');
const native = require('./native.node');
const proto = require('./proto.js');
const modules = require('./modules.js');
const streams = require('./streams.js');
const surroundings = require('./surroundings.js');
const { Cells } = require('./cells.js');

const KERNEL_FD = 3;
const EXIT_PROTOCOL = 76; // EX_PROTOCOL of sysexits.h
const later = setImmediate;

function fail(error) {
	if (!(error instanceof proto.ProtocolError)) {
		native.write(2, proto.bytes(`bivouac kernel: ${error.stack}\n`));
	}
	native.exit(EXIT_PROTOCOL);
}

function main() {
	// SECURITY: high and close-on-exec: user code's programs do not get the socket.
	const fd = native.moveAway(KERNEL_FD);
	const waiting = [];
	let next = 0;

	const cells = new Cells(native, streams.install(native), (frame) => {
		if (!native.send(fd, frame)) {
			native.exit(0);
		}
		later(runNext);
	});

	function runNext() {
		if (cells.current !== null || next === waiting.length) {
			return;
		}
		const run = waiting[next];
		waiting[next++] = undefined;
		if (next === waiting.length) {
			waiting.length = next = 0;
		}
		cells.run(run);
	}

	const reader = new proto.Reader((type, payload) => {
		if (type !== proto.RUN) {
			throw new proto.ProtocolError('expected RUN');
		}
		waiting[waiting.length] = proto.parseRun(payload);
		later(runNext);
	});

	const guarded = (step) => (chunk) => {
		try {
			step(chunk);
		} catch (error) {
			fail(error);
		}
	};

	native.start((interrupted, heapMib, sessionMib) => cells.wake(interrupted, heapMib, sessionMib),
		__dirname + path.sep, ...surroundings.asyncFields());
	surroundings.install((code) => cells.exit(code));
	modules.install();
	const socket = new Socket({ fd, readable: true, writable: false, allowHalfOpen: true });
	socket.on('data', guarded((chunk) => reader.push(chunk)));
	socket.on('end', guarded(() => {
		reader.end();
		native.exit(0);
	}));
	socket.on('error', () => native.exit(0));
	if (!native.send(fd, proto.ready(process.pid))) {
		native.exit(0);
	}
}

main();

// SPDX-License-Identifier: Apache-2.0
'use strict';

// The global display(): shows an image at once, prints anything else.

const images = require('./images.js');
const { show } = require('./values.js');

const { process } = globalThis;

// The cells' part, set by cells.js: sends an image while a cell runs.
const target = { image: () => false };

function display(...values) {
	for (const value of values) {
		const image = typeof value === 'object' && value !== null ? images.of(value) : null;
		if (image === null || !target.image(image)) {
			process.stdout.write(`${show(value)}\n`);
		}
	}
}

module.exports = { display, target };

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include "base/clock.h"
#include "base/str.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_CELLS 24
#define REDRAW_MS 100

void progress_init(struct progress *p, const char *label)
{
	*p = (struct progress){ .label = label, .last_percent = -1 };
	p->tty = label && isatty(STDERR_FILENO);
}

static int line_width(void)
{
	struct winsize ws;

	return !ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) && ws.ws_col > 40 ? ws.ws_col - 1 : 79;
}

void progress_percent(struct progress *p, int percent, const char *text)
{
	char clean[160];
	size_t n = utf8_cut(str_from(text), sizeof(clean) - 1);
	int64_t now = clock_mono_ms();

	percent = percent < 0 ? 0 : percent > 100 ? 100 : percent;
	if (!p->tty || (p->drawn && percent < 100 && now - p->last_ms < REDRAW_MS))
		return;
	p->drawn = true;
	p->last_ms = now;
	for (size_t i = 0; i < n; i++)
		clean[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
	clean[n] = '\0';
	int filled = percent * BAR_CELLS / 100;
	int room = line_width() - BAR_CELLS - 9 - (int)str_from(p->label).len;

	clean[utf8_cut(str_from(clean), room > 0 ? (size_t)room : 0)] = '\0';
	fprintf(stderr, "\r\033[K%s [", p->label);
	for (int i = 0; i < BAR_CELLS; i++)
		fputc(i < filled ? '#' : '.', stderr);
	fprintf(stderr, "] %3d%% %s", percent, clean);
	fflush(stderr);
}

void progress_bytes(struct progress *p, uint64_t done, uint64_t total)
{
	char text[80];

	if (!p->tty)
		return;
	if (total)
		snprintf(text, sizeof(text), "%.1f of %.1f MiB", (double)done / 1048576,
			 (double)total / 1048576);
	else
		snprintf(text, sizeof(text), "%.1f MiB", (double)done / 1048576);
	progress_percent(p, total ? (int)(done * 100 / total) : 0, text);
}

void progress_done(struct progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", stderr);
	p->drawn = false;
}

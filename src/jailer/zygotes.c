/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/zygotes.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"
#include "base/recipe.h"
#include "jailer/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct zygote *zygote_new(const char *image, enum zygote_kind kind)
{
	struct zygote *z = calloc(1, sizeof(*z));

	if (!z)
		return NULL;
	list_init(&z->node);
	z->kind = kind;
	z->sock = -1;
	z->listener = -1;
	snprintf(z->image, sizeof(z->image), "%s", image);
	return z;
}

/* SECURITY: `image` is 64 hexadecimal digits, checked by the opcode parser: it cannot leave
 * images_dfd. */
static int read_beside(const struct zygote_config *config, const char *image, const char *name,
		       size_t max, struct buf *out, struct err *e)
{
	char path[JAILER_IMAGE_SIZE + 16];

	snprintf(path, sizeof(path), "%s/%s", image, name);
	return fd_read_file(config->images_dfd, path, max, out, e);
}

static int read_kind(const struct zygote_config *config, const char *image, enum zygote_kind *ret,
		     struct err *e)
{
	static const char *const words[ZYGOTE_KINDS] = { "exec", "python" };
	struct buf text;
	int rc = -1;

	buf_init(&text, 32);
	if (read_beside(config, image, "zygote", 32, &text, e) < 0) {
		err_set(e, ERR_INTERNAL,
			"image %.16s does not say what its zygote is; build it again", image);
	} else {
		struct str rest = buf_str(&text);

		while (rest.len && rest.ptr[rest.len - 1] == '\n')
			rest.len--;
		for (size_t i = 0; i < ZYGOTE_KINDS; i++) {
			if (str_eq(rest, str_from(words[i]))) {
				*ret = (enum zygote_kind)i;
				rc = 0;
			}
		}
		if (rc < 0)
			err_set(e, ERR_INVALID,
				"image %.16s: zygote is neither 'exec' nor 'python'", image);
	}
	buf_done(&text);
	return rc;
}

/* Which language an embedded interpreter serves. */
static int read_embedded(const struct zygote_config *config, struct zygote *z, struct err *e)
{
	struct buf text;
	bool first = true;

	buf_init(&text, RECIPE_MAX);
	if (read_beside(config, z->image, "recipe", RECIPE_MAX, &text, e) < 0) {
		buf_done(&text);
		return err_wrap(e, "image %.16s", z->image);
	}
	struct str rest = buf_str(&text), key, value;

	while (recipe_next(&rest, &key, &value)) {
		if (!str_eq(key, STR("kernel")))
			continue;
		struct str language = recipe_word(&value);

		if (str_eq(recipe_word(&value), STR(RECIPE_OWN_INTERPRETER)) && !z->embedded[0]) {
			str_copy(language, z->embedded, sizeof(z->embedded));
			z->embedded_first = first;
		}
		first = false;
	}
	buf_done(&text);
	if (!z->embedded[0])
		return err_set(e, ERR_INVALID,
			       "image %.16s: its recipe has no kernel " RECIPE_OWN_INTERPRETER,
			       z->image);
	return 0;
}

static int mount_template(const struct zygote_config *config, struct zygote *z, struct err *e)
{
	char path[JAILER_IMAGE_SIZE + 8];

	snprintf(z->template, sizeof(z->template), "%s/t/%.16s", config->run_dir, z->image);
	snprintf(path, sizeof(path), "%s/rootfs", z->image);
	OWNED_FD int rootfs =
		openat(config->images_dfd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (rootfs < 0)
		return err_set(e, ERR_NOT_FOUND, "image %s is not installed (bivouac image build)",
			       z->image);
	return jail_template(rootfs, z->template, e);
}

static int prepare(const struct zygote_config *config, struct zygote *z, struct err *e)
{
	if (z->kind != ZYGOTE_EXEC) {
		z->launcher = zygote_new(z->image, ZYGOTE_EXEC);
		if (!z->launcher)
			return err_set(e, ERR_NOMEM, "zygote: out of memory");
		if (read_embedded(config, z, e) < 0)
			return -1;
	}
	if (mount_template(config, z, e) < 0)
		return -1;
	if (z->launcher)
		memcpy(z->launcher->template, z->template, sizeof(z->template));
	return 0;
}

struct zygote *zygote_prepare(const struct zygote_config *config, const char *image, struct err *e)
{
	enum zygote_kind kind = ZYGOTE_EXEC;
	struct stat st;

	if (fstatat(config->images_dfd, image, &st, 0) < 0) {
		err_set(e, ERR_NOT_FOUND, "image %s is not installed (bivouac image build)", image);
		return NULL;
	}
	if (read_kind(config, image, &kind, e) < 0)
		return NULL;
	struct zygote *z = zygote_new(image, kind);

	if (!z) {
		err_set(e, ERR_NOMEM, "zygote: out of memory");
		return NULL;
	}
	if (prepare(config, z, e) == 0)
		return z;
	free(z->launcher);
	free(z);
	return NULL;
}

struct zygote *zygote_for(struct zygote *z, const char *language)
{
	if (!z->launcher)
		return z;
	bool own = *language ? strcmp(language, z->embedded) == 0 : z->embedded_first;

	return own ? z : z->launcher;
}

static void zygote_stop(struct zygote *z)
{
	if (z->sock < 0)
		return;
	kill(z->pid, SIGKILL);
	waitpid(z->pid, NULL, 0);
	close(z->sock);
}

void zygote_free(struct zygote *z)
{
	char dev[320];

	if (!z)
		return;
	if (z->launcher)
		zygote_stop(z->launcher);
	zygote_stop(z);
	snprintf(dev, sizeof(dev), "%s/dev", z->template);
	umount2(dev, MNT_DETACH);
	umount2(z->template, MNT_DETACH);
	rmdir(z->template);
	list_remove(&z->node);
	free(z->launcher);
	free(z);
}

static int keep_few_caps(struct err *e)
{
	/* SECURITY: entering a sandbox takes CAP_SYS_ADMIN over its namespaces, CAP_SYS_CHROOT for
	 * its mounts and, as its PID 1 is not dumpable, CAP_SYS_PTRACE; becoming the session user
	 * takes rights inside the sandbox's own user namespace only. */
	const uint32_t keep = 1u << CAP_SYS_ADMIN | 1u << CAP_SYS_CHROOT | 1u << CAP_SYS_PTRACE;
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { keep, keep, 0 }, { 0 } };

	/* The bounding set too, or exec as uid 0 would give all of them back. */
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (!(cap < 32 && keep & (1u << cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 &&
		    errno != EINVAL)
			return err_sys(e, "limit the zygote's capabilities");
	if (syscall(SYS_capset, &header, data) < 0)
		return err_sys(e, "limit the zygote's capabilities");
	return 0;
}

static int zygote_root(const struct zygote *z, struct err *e)
{
	static const char *const scratch[] = { "tmp", "home/session", "dev/shm" };

	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return err_sys(e, "zygote namespaces");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(z->template, z->template, NULL, MS_BIND | MS_REC, NULL) < 0 ||
	    chdir(z->template) < 0)
		return err_sys(e, "zygote root");
	for (size_t i = 0; i < ARRAY_LEN(scratch); i++)
		if (mount("tmpfs", scratch[i], "tmpfs", MS_NOSUID | MS_NODEV,
			  "size=64m,mode=1777") < 0)
			return err_sys(e, "zygote /%s", scratch[i]);
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL) < 0)
		return err_sys(e, "zygote /proc");
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_sys(e, "zygote pivot_root");
	return 0;
}

static void zygote_child(const struct zygote_config *config, const struct zygote *z, int sock,
			 pid_t parent)
{
	const char *const argv[] = { "bivouac-zygote", config->notify ? "--notify" : NULL, NULL };
	static const char *const envp[] = { "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8",
					    "HOME=/home/session", NULL };
	struct zygote_reply failed = { 0 };
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	/* Descriptors first: copies of other zygotes' sockets would keep those alive. */
	int fds[] = { sock, config->rest_filter_fd, config->binary_fds[z->kind],
		      config->zygote_filter_fd };

	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64);
	dup3(fds[0], ZYGOTE_SOCK_FD, 0);
	dup3(fds[1], ZYGOTE_FILTER_FD, 0);
	dup3(fds[2], 5, O_CLOEXEC);
	dup3(fds[3], ZYGOTE_OWN_FILTER_FD, 0);
	syscall(SYS_close_range, ZYGOTE_OWN_FILTER_FD + 1, ~0U, 0);
	if (zygote_root(z, &failed.err) == 0) {
		int null_fd = open("/dev/null", O_RDWR);

		dup2(null_fd, 0);
		dup2(null_fd, 1);
		close(null_fd);
		for (int sig = 1; sig < NSIG; sig++)
			signal(sig, SIG_DFL);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		umask(022);
		setsid();
		if (keep_few_caps(&failed.err) == 0) {
			syscall(SYS_execveat, 5, "", (char *const *)argv, envp, AT_EMPTY_PATH);
			err_sys(&failed.err, "start the zygote");
		}
	}
	(void)!write(ZYGOTE_SOCK_FD, &failed, sizeof(failed));
	_exit(1);
}

int zygote_start(const struct zygote_config *config, struct zygote *z, struct err *e)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(e, "socketpair");
	OWNED_FD int ours = pair[0];
	OWNED_FD int theirs = pair[1];
	pid_t self = getpid();
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(e, "fork the zygote");
	if (pid == 0)
		zygote_child(config, z, theirs, self);
	fd_set_nonblock(ours, true);
	z->pid = pid;
	z->sock = take_fd(ours);
	z->loaded = false;
	return 0;
}

int zygote_send(struct zygote *z, const struct zygote_request *rq, const int *fds, size_t fd_count,
		struct err *e)
{
	if (fd_send(z->sock, rq, sizeof(*rq), fds, fd_count) == (ssize_t)sizeof(*rq))
		return 0;
	if (errno == EAGAIN)
		return err_set(e, ERR_UNAVAILABLE, "the zygote is behind; try again");
	return err_sys(e, "ask the zygote");
}

int zygote_recv(struct zygote *z, struct zygote_reply *ret)
{
	int fd = -1;
	size_t fds = 1;
	ssize_t n = fd_recv(z->sock, ret, sizeof(*ret), &fd, &fds);

	if (n >= 0 && fds) {
		close_fd(&z->listener);
		z->listener = fd;
	}

	if (n == (ssize_t)sizeof(*ret)) {
		ret->err.msg[sizeof(ret->err.msg) - 1] = '\0';
		return 1;
	}
	return n < 0 && errno == EAGAIN ? 0 : -1;
}

void zygote_ended(struct zygote *z)
{
	if (z->sock < 0)
		return;
	kill(z->pid, SIGKILL);
	waitpid(z->pid, NULL, 0);
	close_fd(&z->sock);
	close_fd(&z->listener);
	z->pid = 0;
	z->failures = z->loaded ? 0 : z->failures + 1;
	z->loaded = false;
}

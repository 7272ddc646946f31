/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KVM_DEADLINE_MS 1000
#define GUEST_ADDRESS   0x1000
#define GUEST_PORT      0x3f8
#define GUEST_BYTE      0x42
#define EXITS_MAX       16

#if defined(__x86_64__)

/* mov dx, 0x3f8; mov al, 0x42; out dx, al; hlt */
static const unsigned char guest_code[] = { 0xba, 0xf8, 0x03, 0xb0, GUEST_BYTE, 0xee, 0xf4 };

/** guest_registers: 16-bit real mode, flat, at the start of the page. */
static int guest_registers(int vcpu_fd)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = GUEST_ADDRESS, .rflags = 2 };

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		return -1;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu_fd, KVM_SET_REGS, &regs) ? -1
											    : 0;
}

static void guest_run(struct trial *t, int vcpu_fd, struct kvm_run *run)
{
	bool wrote = false;

	for (int i = 0; i < EXITS_MAX; i++) {
		if (ioctl(vcpu_fd, KVM_RUN, 0) && errno != EINTR) {
			trial_set(t, TRIAL_FAILED, "KVM_RUN: %s", strerror(errno));
			return;
		}
		if (run->exit_reason == KVM_EXIT_HLT) {
			trial_set(
				t, wrote ? TRIAL_OK : TRIAL_FAILED,
				wrote ? "a 16-bit guest ran and answered (a whole kernel may need more)"
				      : "the guest stopped silently");
			return;
		}
		if (run->exit_reason != KVM_EXIT_IO) {
			trial_set(t, TRIAL_FAILED, "the guest ended with reason %u",
				  run->exit_reason);
			return;
		}
		wrote = run->io.port == GUEST_PORT && run->io.direction == KVM_EXIT_IO_OUT &&
			((const unsigned char *)run)[run->io.data_offset] == GUEST_BYTE;
	}
	trial_set(t, TRIAL_FAILED, "the guest does not stop");
}

/** trial_guest: descriptors and mappings end with the child. */
static void trial_guest(struct trial *t, const void *arg)
{
	int kvm_fd = *(const int *)arg;
	int vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	long run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (vm_fd < 0 || memory == MAP_FAILED || run_size <= 0) {
		trial_set(t, TRIAL_FAILED, "no VM can be made: %s", strerror(errno));
		return;
	}
	memcpy(memory, guest_code, sizeof(guest_code));
	struct kvm_userspace_memory_region region = { .guest_phys_addr = GUEST_ADDRESS,
						      .memory_size = 4096,
						      .userspace_addr =
							      (__u64)(unsigned long)memory };
	int vcpu_fd = ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region)
			      ? -1
			      : ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	struct kvm_run *run = vcpu_fd < 0 ? MAP_FAILED
					  : mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE,
						 MAP_SHARED, vcpu_fd, 0);

	if (run == MAP_FAILED || guest_registers(vcpu_fd)) {
		trial_set(t, TRIAL_FAILED, "no virtual processor can be made: %s", strerror(errno));
		return;
	}
	guest_run(t, vcpu_fd, run);
}

#else

static void trial_guest(struct trial *t, const void *arg)
{
	(void)arg;
	trial_set(t, TRIAL_PARTLY, "/dev/kvm opens; running a guest is only tried on x86-64");
}

#endif

void doctor_check_kvm(struct doctor *d)
{
	static const char fix[] =
		"micro VMs fall back to emulation; for speed, run on a machine with "
		"hardware (or working nested) virtualization";
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm_fd < 0) {
		doctor_add(d, FINDING_WARN, "kvm", fix, "/dev/kvm: %s", strerror(errno));
		return;
	}
	int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION) {
		doctor_add(d, FINDING_WARN, "kvm", fix, "/dev/kvm speaks version %d instead of %d",
			   version, KVM_API_VERSION);
	} else {
		struct trial t = doctor_child(trial_guest, &kvm_fd, KVM_DEADLINE_MS);

		if (t.result == TRIAL_HUNG)
			doctor_add(d, FINDING_WARN, "kvm", fix, "opens but guests hang: %s",
				   t.text);
		else if (t.result == TRIAL_FAILED)
			doctor_add(d, FINDING_WARN, "kvm", fix, "opens but guests do not run: %s",
				   t.text);
		else
			doctor_add(d, t.result == TRIAL_OK ? FINDING_OK : FINDING_WARN, "kvm", fix,
				   "%s", t.text);
	}
	close(kvm_fd);
}

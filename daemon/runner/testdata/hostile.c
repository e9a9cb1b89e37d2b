/*
 * What a container may try, one line each: "NAME: refused" or "NAME: DONE".
 * /out is a directory of the host.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <linux/openat2.h>
#include <unistd.h>

static void tell(const char *name, int done)
{
	printf("%s: %s\n", name, done ? "DONE" : "refused");
	fflush(stdout);
}
#define TRY(name, call) tell(name, (call) >= 0)

static int plain(const char *path)
{
	int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0755);
	if (fd < 0) {
		perror(path);
		exit(2);
	}
	return fd;
}

static int append(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	int n = write(fd, text, strlen(text));
	close(fd);
	return n;
}

/* Any file that a pattern finds, and that takes the text. */
static int append_any(const char *pattern, const char *text)
{
	glob_t g;
	int done = -1;
	if (glob(pattern, 0, NULL, &g))
		return -1;
	for (size_t i = 0; i < g.gl_pathc; i++)
		if (append(g.gl_pathv[i], text) >= 0)
			done = 0;
	return done;
}

static long call32(long nr, long a, long b)
{
	int ret = -1;
#if defined(__x86_64__)
	asm volatile("int $0x80" : "=a"(ret) : "a"((int)nr), "b"((int)a), "c"((int)b) : "r8", "r9", "r10", "r11", "memory");
#endif
	return ret;
}

/* A copy of a text where 32 bits can point. */
static char *mmap_low(const char *text)
{
#if defined(__x86_64__)
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	return p == MAP_FAILED ? NULL : strcpy(p, text);
#else
	return NULL;
#endif
}

static void setuid_files(void)
{
	int fd = plain("/out/plain");
	struct open_how how = { .flags = O_CREAT | O_RDWR, .mode = 04755 };
	char *low = mmap_low("/out/plain");

	TRY("setuid by chmod", chmod("/out/plain", 04755));
	TRY("setuid by chmod with high bits", syscall(SYS_chmod, "/out/plain", 0xffff0000UL | 04755));
	TRY("setuid by fchmod", fchmod(fd, 04755));
	TRY("setuid by fchmodat", fchmodat(AT_FDCWD, "/out/plain", 04755, 0));
	TRY("setuid by fchmodat2", syscall(452, AT_FDCWD, "/out/plain", 04755, 0));
	TRY("setuid by open", syscall(SYS_open, "/out/s1", O_CREAT | O_RDWR, 04755));
	TRY("setuid by openat", syscall(SYS_openat, AT_FDCWD, "/out/s2", O_CREAT | O_RDWR, 04755));
	TRY("setuid by openat2", syscall(SYS_openat2, AT_FDCWD, "/out/s3", &how, sizeof how));
	TRY("setuid by creat", syscall(SYS_creat, "/out/s4", 04755));
	TRY("setuid by mknod", mknod("/out/s5", S_IFREG | 04755, 0));
	TRY("setuid by mknodat", mknodat(AT_FDCWD, "/out/s6", S_IFREG | 04755, 0));
	TRY("setuid by O_TMPFILE", open("/out", O_TMPFILE | O_RDWR, 04755));
	TRY("setuid by a 32-bit chmod", low ? call32(15, (long)low, 04755) : -1);
	TRY("io_uring", syscall(SYS_io_uring_setup, 4, &how));
	TRY("file capabilities", setxattr("/out/plain", "security.capability", "\1\0\0\2\0\0\0\4\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
	close(fd);
}

static void identity(void)
{
	TRY("leave the groups", setgroups(0, NULL));
	TRY("become another group", setresgid(7, 7, 7));
	TRY("become another user", setresuid(7, 7, 7));
}

static void kernel(void)
{
	TRY("mount", mount("x", "/tmp", "tmpfs", 0, ""));
	TRY("bind mount", mount("/", "/mnt", "", MS_BIND, ""));
	TRY("umount", umount2("/out", MNT_DETACH));
	TRY("remount of a mount", mount("", "/out", "", MS_REMOUNT | MS_BIND, ""));
	TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/out", 1));
	TRY("pivot_root", syscall(SYS_pivot_root, "/", "/"));
	TRY("chroot", chroot("/tmp"));
	TRY("a user namespace", unshare(CLONE_NEWUSER));
	TRY("a mount namespace", unshare(CLONE_NEWNS));
	TRY("setns", setns(open("/proc/1/ns/mnt", O_RDONLY), 0));
	TRY("block device", mknod("/tmp/sda", S_IFBLK | 0600, makedev(8, 0)));
	TRY("character device", mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
	TRY("device on a bind", mknod("/out/mem", S_IFCHR | 0600, makedev(1, 1)));
	TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, "x", O_RDONLY));
	TRY("bpf", syscall(SYS_bpf, 0, "", 0));
	TRY("perf_event_open", syscall(SYS_perf_event_open, "", 0, -1, -1, 0));
	TRY("init_module", syscall(SYS_init_module, "", 0, ""));
	TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
	TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
	TRY("add_key", syscall(SYS_add_key, "user", "x", "x", 1, -3));
	TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
	TRY("reboot", reboot(RB_DISABLE_CAD));
	TRY("settimeofday", syscall(SYS_settimeofday, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", NULL));
	TRY("swapon", syscall(SYS_swapon, "/tmp/x", 0));
}

static void files(void)
{
	TRY("core_pattern", append("/proc/sys/kernel/core_pattern", "|/out/x"));
	TRY("modprobe", append("/proc/sys/kernel/modprobe", "/out/x"));
	TRY("sysrq", append("/proc/sysrq-trigger", "h"));
	TRY("uevent_helper", append("/sys/kernel/uevent_helper", "/out/x"));
	TRY("release_agent", append_any("/sys/fs/cgroup/*/release_agent", "/out/x"));
	TRY("notify_on_release", append_any("/sys/fs/cgroup/*/notify_on_release", "1"));
	TRY("cgroup.procs", append_any("/sys/fs/cgroup/*/cgroup.procs", "1"));
	TRY("cgroup.procs of v2", append("/sys/fs/cgroup/cgroup.procs", "1"));
	TRY("memory limit", append_any("/sys/fs/cgroup/*/memory.limit_in_bytes", "-1"));
	TRY("memory limit of v2", append("/sys/fs/cgroup/memory.max", "max"));
	TRY("cgroup below", mkdir("/sys/fs/cgroup/memory/x", 0755));
	TRY("kcore", open("/proc/kcore", O_RDONLY) >= 0 ? read(open("/proc/kcore", O_RDONLY), &(char){ 0 }, 1) - 1 : -1);
	TRY("oom score", append("/proc/self/oom_score_adj", "-1000"));
	TRY("write to pipes' directory", open("/mnt/girder_worker/pipes/x", O_CREAT | O_WRONLY, 0600));
	TRY("rename of a pipe", rename("/mnt/girder_worker/pipes/in", "/mnt/girder_worker/pipes/y"));
	TRY("removal of a pipe", unlink("/mnt/girder_worker/pipes/in"));
	TRY("link in place of a pipe", symlink("/etc/passwd", "/mnt/girder_worker/pipes/z"));
	TRY("write to a read-only bind", open("/in/x", O_CREAT | O_WRONLY, 0600));
}

/* Where a descriptor, the working directory or the program could lead out. */
static void leaks(void)
{
	char path[300], target[300];
	struct stat root, up;
	int strange = 0;
	DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(d) || atoi(e->d_name) < 3)
			continue;
		snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
		ssize_t n = readlink(path, target, sizeof target - 1);
		target[n > 0 ? n : 0] = 0;
		fprintf(stderr, "descriptor %s is %s\n", e->d_name, target);
		strange = 1;
	}
	tell("a descriptor that leaked", strange);
	stat("/", &root);
	stat("../../../../../../../../..", &up);
	tell("a working directory outside", root.st_ino != up.st_ino || root.st_dev != up.st_dev);
	stat("/out/../../../..", &up);
	tell(".. above a bind", root.st_ino != up.st_ino || root.st_dev != up.st_dev);
	TRY("our program by /proc/1/exe", open("/proc/1/exe", O_WRONLY));
	TRY("the program by /proc/self/exe", open("/proc/self/exe", O_WRONLY));
	TRY("a root by /proc/1/root", open("/proc/1/root/../../../work", O_RDONLY));
	TRY("the host's processes", open("/proc/2/status", O_RDONLY) >= 0 && getpid() != 2 ? 0 : -1);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "identity")) {
		identity();
		return 0;
	}
	leaks(); /* before anything is open */
	setuid_files();
	kernel();
	files();
	return 0;
}

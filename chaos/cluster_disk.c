/* A disk for each node: a file with an ext4 file system on a loop device, mounted in a mount namespace that
 * only the node's process has. So each node can have a full, failing, slow or read-only disk of its own.
 * The loop device detaches itself with its last user (LO_FLAGS_AUTOCLEAR), the mount goes with the process.
 */
#include "chaos/cluster_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_BYTES (384ll << 20) /* sparse; what is written takes room */
#define LOOP_TRIES 16            /* others may take the free device first */
#define MOUNT_TRIES 500          /* the last user's mount may take a moment to go */
#define MOUNT_PAUSE_US 20000

static enum dn_code make_image(struct cluster_node *node, struct dn_error *err)
{
    const char *const arguments[] = {"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,nodiscard",
                                     node->image, NULL};
    char output[300];
    int status = -1;

    node->image_fd = open(node->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (node->image_fd < 0 || ftruncate(node->image_fd, DISK_BYTES) != 0)
        return dn_fail(err, DN_IO, "make the disk '%s': %s", node->image, strerror(errno));
    enum dn_code code = cluster_command(arguments, output, sizeof output, &status, err);
    if (code == DN_OK && status != 0)
        code = dn_fail(err, DN_UNAVAILABLE, "mkfs.ext4 '%s': code %d: %.200s", node->image, status, output);
    return code;
}

static enum dn_code attach(struct cluster_node *node, struct dn_error *err)
{
    struct loop_config config = {.fd = (uint32_t)node->image_fd,
                                 .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO}};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int why = errno;

    for (int i = 0; control >= 0 && i < LOOP_TRIES; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0) {
            why = errno;
            break;
        }
        snprintf(node->device, sizeof node->device, "/dev/loop%d", number);
        node->device_fd = open(node->device, O_RDWR | O_CLOEXEC);
        if (node->device_fd >= 0 && ioctl(node->device_fd, LOOP_CONFIGURE, &config) == 0) {
            close(control);
            return DN_OK;
        }
        why = errno;
        if (node->device_fd >= 0)
            close(node->device_fd);
        node->device_fd = -1;
    }
    if (control >= 0)
        close(control);
    node->device[0] = 0;
    return dn_fail(err, DN_UNAVAILABLE, "attach a loop device: %s", strerror(why));
}

enum dn_code cluster_disk_create(struct chaos_cluster *c, struct cluster_node *node, struct dn_error *err)
{
    snprintf(node->image, sizeof node->image, "%s/node-%u.disk", c->folder, node->number);
    enum dn_code code = make_image(node, err);
    if (code == DN_OK && mkdir(node->data, 0700) != 0 && errno != EEXIST)
        code = dn_fail(err, DN_IO, "make '%s': %s", node->data, strerror(errno));
    return code == DN_OK ? attach(node, err) : code;
}

void cluster_disk_destroy(struct cluster_node *node)
{
    if (node->device_fd >= 0)
        close(node->device_fd);
    if (node->image_fd >= 0)
        close(node->image_fd);
    node->device_fd = node->image_fd = -1;
    node->device[0] = 0;
}

bool cluster_disk_mount(const struct cluster_node *node)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    for (int i = 0; i < MOUNT_TRIES; i++) {
        if (mount(node->device, node->data, "ext4", MS_NOATIME, "errors=remount-ro") == 0)
            return true;
        if (errno != EBUSY)
            return false;
        usleep(MOUNT_PAUSE_US);
    }
    return false;
}

void cluster_node_path(struct chaos_cluster *c, unsigned node, const char *name, char *ret_path, size_t size)
{
    struct cluster_node *n = &c->nodes[node];

    pthread_mutex_lock(&c->lock);
    pid_t pid = n->pid;
    pthread_mutex_unlock(&c->lock);
    if (n->device[0] != 0 && pid != 0)
        snprintf(ret_path, size, "/proc/%d/root%s/%s", (int)pid, n->data, name);
    else
        snprintf(ret_path, size, "%s/%s", n->data, name);
}

/* ---- visits
 * ------------------------------------------------------------------------------------------------- */

struct visit {
    const struct cluster_node *node;
    cluster_disk_visitor visitor;
    void *data;
    int why; /* errno of the mount; 0: none */
};

/* On a thread of its own: the mount is this thread's alone, and goes with it. */
static void *visit_mounted(void *data)
{
    struct visit *v = data;

    if (cluster_disk_mount(v->node))
        v->visitor(v->node->data, v->data);
    else
        v->why = errno;
    return NULL;
}

enum dn_code cluster_disk_visit(struct chaos_cluster *c, unsigned node, cluster_disk_visitor visitor,
                                void *data, struct dn_error *err)
{
    struct visit v = {.node = &c->nodes[node], .visitor = visitor, .data = data};
    char path[2 * CLUSTER_PATH_MAX];
    pthread_t thread;

    if (c->nodes[node].device[0] == 0 || chaos_cluster_is_running(c, node)) {
        cluster_node_path(c, node, "", path, sizeof path);
        visitor(path, data);
        return DN_OK;
    }
    if (pthread_create(&thread, NULL, visit_mounted, &v) != 0)
        return dn_fail(err, DN_EXHAUSTED, "no thread to visit node %u's disk on", node);
    pthread_join(thread, NULL);
    return v.why == 0 ? DN_OK : dn_fail(err, DN_IO, "mount node %u's disk: %s", node, strerror(v.why));
}

enum dn_code cluster_disk_settle(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    for (int i = 0; i < MOUNT_TRIES; i++) {
        int fd = open(c->nodes[node].device, O_RDWR | O_EXCL | O_CLOEXEC); /* refused while it is mounted */
        if (fd >= 0) {
            close(fd);
            return DN_OK;
        }
        usleep(MOUNT_PAUSE_US);
    }
    return dn_fail(err, DN_UNAVAILABLE, "'%s', node %u's disk, is still mounted", c->nodes[node].device,
                   node);
}

/* Whose connection is it? By the socket's inode, which /proc/net/tcp gives for its two addresses, and the
 * descriptors of the processes in question. Needs no right but to look at one's own processes. */
#include "chaos/proxy_internal.h"

#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint64_t proxy_socket_inode(const struct sockaddr_in *local, const struct sockaddr_in *remote)
{
    char line[512];
    uint64_t found = 0;
    FILE *in = fopen("/proc/net/tcp", "re");

    if (in == NULL)
        return 0;
    while (found == 0 && fgets(line, sizeof line, in) != NULL) {
        unsigned from, from_port, to, to_port;
        uint64_t inode;
        /* sl local remote state queues timer retransmissions uid timeout inode */
        if (sscanf(line, "%*d: %8X:%4X %8X:%4X %*X %*s %*s %*s %*u %*d %" SCNu64, &from, &from_port, &to,
                   &to_port, &inode) == 5 &&
            from == local->sin_addr.s_addr && to == remote->sin_addr.s_addr &&
            from_port == ntohs(local->sin_port) && to_port == ntohs(remote->sin_port))
            found = inode;
    }
    fclose(in);
    return found;
}

int proxy_process_has(pid_t pid, uint64_t inode)
{
    char folder[64], path[PATH_MAX], target[64], wanted[64];
    int found = 0;

    snprintf(folder, sizeof folder, "/proc/%d/fd", (int)pid);
    snprintf(wanted, sizeof wanted, "socket:[%" PRIu64 "]", inode);
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return 0;
    for (struct dirent *e; !found && (e = readdir(dir)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length > 0) {
            target[length] = 0;
            found = strcmp(target, wanted) == 0;
        }
    }
    closedir(dir);
    return found;
}

/* Disks: what processes see (the page cache) and what a power loss leaves. A file's sectors are dirty from a
 * write to the end of a flush that began after it; of those a power loss keeps all, none, or each one or not,
 * so writes are torn and their order is lost. A directory's changes are kept in order up to some point (as a
 * journaling file system does) unless the directory was flushed.
 *
 * A failed flush may forget what it held: the page cache goes on showing it, and the next flush says nothing
 * (what Linux does with a page whose writing failed). With O_DIRECT it does not: there is no page. */
#include "tests/virtual/internal.h"

#define NAME_LENGTH 96
#define PATH_LENGTH 512
#define SHORT_WAIT_NS (60 * SIM_US)
#define SHORT_WAIT_ONE_IN 6
#define SLOW_NS (20 * SIM_MS)

enum { DIRTY = 1, FLUSHING = 2 };

struct name {
    char text[NAME_LENGTH];
    struct inode *inode;
};

struct change { /* of a directory, not flushed: a name that is put, or taken away; a rename is both */
    struct name put;
    char taken[NAME_LENGTH];
};

struct names {
    struct name *list, *durable;
    size_t count, room, durable_count, durable_room;
    struct change *changes;
    size_t change_count, change_room;
};

static struct disk {
    struct inode *inodes, *root;
    struct sim_disk_faults faults;
} disks[SIM_MACHINES_MAX];

/* ---- files -------------------------------------------------------------------------------------------- */

static struct inode *new_inode(struct disk *disk, bool directory)
{
    struct inode *inode = memory_real(sizeof *inode);
    inode->directory = directory;
    inode->names = directory ? memory_real(sizeof *inode->names) : NULL;
    inode->next = disk->inodes;
    disk->inodes = inode;
    return inode;
}

static void make_room(struct inode *inode, size_t size)
{
    size_t room = (size + SECTOR - 1) / SECTOR * SECTOR, old = inode->room;
    if (room <= old) {
        return;
    }
    room = room < 2 * old ? 2 * old : room;
    inode->bytes = memory_real_grow(inode->bytes, room);
    inode->durable = memory_real_grow(inode->durable, room);
    inode->dirty = memory_real_grow(inode->dirty, room / SECTOR);
    memset(inode->bytes + old, 0, room - old);
    memset(inode->durable + old, 0, room - old);
    memset(inode->dirty + old / SECTOR, 0, (room - old) / SECTOR);
    inode->room = room;
}

static void put_bytes(struct inode *inode, uint64_t at, const uint8_t *bytes, size_t length)
{
    make_room(inode, at + length);
    memcpy(inode->bytes + at, bytes, length);
    if (length > 0) {
        memset(inode->dirty + at / SECTOR, DIRTY, (at + length - 1) / SECTOR - at / SECTOR + 1);
    }
    inode->size = at + length > inode->size ? at + length : inode->size;
}

static void crash_file(struct inode *inode, unsigned mode)
{
    uint64_t kept = 0, lost = 0;
    for (size_t i = 0; i < inode->room / SECTOR; i++) {
        if (inode->dirty[i] == 0) {
            continue;
        }
        bool keep = mode == 0 ? false : mode == 1 ? true : sim_chance(2);
        if (keep) {
            memcpy(inode->durable + i * SECTOR, inode->bytes + i * SECTOR, SECTOR);
        }
        kept += keep;
        lost += !keep;
    }
    sim_counts.sectors_kept += kept;
    sim_counts.sectors_lost += lost;
    sim_counts.writes_torn += kept > 0 && lost > 0;
    if (inode->size != inode->durable_size && (mode == 1 || (mode > 1 && sim_chance(2)))) {
        inode->durable_size = inode->size;
    }
    if (inode->room > 0) {
        memcpy(inode->bytes, inode->durable, inode->room);
        memset(inode->dirty, 0, inode->room / SECTOR);
        memset(inode->bytes + inode->durable_size, 0, inode->room - inode->durable_size);
    }
    inode->size = inode->durable_size;
}

/* What a failed flush forgot is clean to the kernel, which may read it from the disk again at any time: the
 * next process may find what was there before. */
static void evict_file(struct inode *inode)
{
    for (size_t i = 0; i < inode->room / SECTOR; i++) {
        uint8_t *now = inode->bytes + i * SECTOR;
        const uint8_t *durable = inode->durable + i * SECTOR;
        if (inode->dirty[i] == 0 && memcmp(now, durable, SECTOR) != 0 && sim_chance(2)) {
            memcpy(now, durable, SECTOR);
            sim_counts.sectors_evicted++;
        }
    }
}

/* ---- directories -------------------------------------------------------------------------------------- */

static struct name *find_name(struct name *list, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].text, text) == 0) {
            return &list[i];
        }
    }
    return NULL;
}

static void take_name(struct name *list, size_t *count, const char *text)
{
    struct name *found = find_name(list, *count, text);
    if (found != NULL) {
        memmove(found, found + 1, (size_t)(list + *count - (found + 1)) * sizeof *list);
        --*count;
    }
}

static void put_name(struct name **list, size_t *count, size_t *room, const struct name *name)
{
    struct name *found = find_name(*list, *count, name->text);
    if (found != NULL) {
        *found = *name;
        return;
    }
    if (*count == *room) {
        *room = *room == 0 ? 8 : *room * 2;
        *list = memory_real_grow(*list, *room * sizeof **list);
    }
    (*list)[(*count)++] = *name;
}

static void apply_change(struct name **list, size_t *count, size_t *room, const struct change *change)
{
    if (change->taken[0] != 0) {
        take_name(*list, count, change->taken);
    }
    if (change->put.text[0] != 0) {
        put_name(list, count, room, &change->put);
    }
}

static void change_names(struct inode *directory, const char *taken, const char *put, struct inode *inode)
{
    struct names *n = directory->names;
    struct change change = {.put.inode = inode};
    SIM_CHECK(strlen(taken) < NAME_LENGTH && strlen(put) < NAME_LENGTH, "name too long");
    memcpy(change.taken, taken, strlen(taken) + 1);
    memcpy(change.put.text, put, strlen(put) + 1);
    if (n->change_count == n->change_room) {
        n->change_room = n->change_room == 0 ? 8 : n->change_room * 2;
        n->changes = memory_real_grow(n->changes, n->change_room * sizeof *n->changes);
    }
    n->changes[n->change_count++] = change;
    apply_change(&n->list, &n->count, &n->room, &change);
}

/* The first `kept` changes are durable, the others never were. */
static void settle_names(struct inode *directory, size_t kept, bool forget_others)
{
    struct names *n = directory->names;
    for (size_t i = 0; i < kept; i++) {
        apply_change(&n->durable, &n->durable_count, &n->durable_room, &n->changes[i]);
    }
    n->change_count -= kept;
    memmove(n->changes, n->changes + kept, n->change_count * sizeof *n->changes);
    if (forget_others) {
        sim_counts.names_lost += n->change_count;
        n->change_count = 0;
        n->count = 0;
        for (size_t i = 0; i < n->durable_count; i++) {
            put_name(&n->list, &n->count, &n->room, &n->durable[i]);
        }
    }
}

const char *vdisk_name_at(const struct inode *directory, size_t n)
{
    return n < directory->names->count ? directory->names->list[n].text : NULL;
}

/* Finds the directory that holds the path's last name, and that name. */
static int find_parent(unsigned machine, const char *path, struct inode **ret, char last[NAME_LENGTH])
{
    char copy[PATH_LENGTH], *rest = NULL;
    struct inode *at = disks[machine].root;
    SIM_CHECK(strlen(path) < sizeof copy, "path too long");
    memcpy(copy, path, strlen(path) + 1);
    last[0] = 0;
    for (char *part = strtok_r(copy, "/", &rest); part != NULL; part = strtok_r(NULL, "/", &rest)) {
        if (last[0] != 0) {
            struct name *name = find_name(at->names->list, at->names->count, last);
            if (name == NULL) {
                return -ENOENT;
            }
            if (!name->inode->directory) {
                return -ENOTDIR;
            }
            at = name->inode;
        }
        SIM_CHECK(strlen(part) < NAME_LENGTH, "name too long");
        memcpy(last, part, strlen(part) + 1);
    }
    *ret = at;
    return 0;
}

/* ---- waiting and failing ------------------------------------------------------------------------------ */

static void wait_shortly(void)
{
    if (fiber_running() && sim_chance(SHORT_WAIT_ONE_IN)) {
        fiber_sleep(sim_random(SHORT_WAIT_NS));
    }
}

static bool fails(unsigned one_in)
{
    bool failed = sim_chance(one_in);
    sim_counts.disk_errors += failed;
    return failed;
}

/* May a crash strike here? *ret_after: only when the operation has been done. */
static bool strikes(unsigned machine, bool *ret_after)
{
    struct process *p = &processes[machine];
    bool now = fiber_running() && crash_strikes(p);
    *ret_after = now && sim_chance(2);
    if (now) {
        sim_counts.aimed_crashes++;
        sim_trace("machine %u: a crash in a disk operation", machine);
    }
    if (now && !*ret_after) {
        crash_now(p, p->crash_power);
    }
    p->crash_due |= *ret_after;
    return *ret_after;
}

static void strike_after(unsigned machine, bool after)
{
    if (after) {
        crash_now(&processes[machine], processes[machine].crash_power);
    }
}

bool vdisk_is_full(unsigned machine)
{
    return disks[machine].faults.full;
}

static int no_space(unsigned machine)
{
    sim_counts.disk_full += disks[machine].faults.full;
    return disks[machine].faults.full ? -ENOSPC : 0;
}

/* ---- operations --------------------------------------------------------------------------------------- */

int vdisk_lookup(unsigned machine, const char *path, struct inode **ret)
{
    char last[NAME_LENGTH];
    struct inode *parent;
    int rv = find_parent(machine, path, &parent, last);
    if (rv != 0) {
        return rv;
    }
    if (last[0] == 0) {
        *ret = parent;
        return 0;
    }
    struct name *name = find_name(parent->names->list, parent->names->count, last);
    if (name == NULL) {
        return -ENOENT;
    }
    *ret = name->inode;
    return 0;
}

int vdisk_create(unsigned machine, const char *path, bool directory, struct inode **ret)
{
    char last[NAME_LENGTH];
    struct inode *parent;
    bool after;
    wait_shortly();
    int rv = find_parent(machine, path, &parent, last);
    if (rv != 0 || (rv = no_space(machine)) != 0) {
        return rv;
    }
    if (fails(disks[machine].faults.write_one_in)) {
        return -EIO;
    }
    strikes(machine, &after);
    *ret = new_inode(&disks[machine], directory);
    change_names(parent, "", last, *ret);
    strike_after(machine, after);
    return 0;
}

int vdisk_unlink(unsigned machine, const char *path)
{
    char last[NAME_LENGTH];
    struct inode *parent;
    bool after;
    wait_shortly();
    int rv = find_parent(machine, path, &parent, last);
    if (rv != 0) {
        return rv;
    }
    if (find_name(parent->names->list, parent->names->count, last) == NULL) {
        return -ENOENT;
    }
    strikes(machine, &after);
    change_names(parent, last, "", NULL);
    strike_after(machine, after);
    return 0;
}

int vdisk_rename(unsigned machine, const char *from, const char *to)
{
    char last[NAME_LENGTH], last_to[NAME_LENGTH];
    struct inode *parent, *parent_to;
    bool after;
    wait_shortly();
    int rv = find_parent(machine, from, &parent, last);
    rv = rv == 0 ? find_parent(machine, to, &parent_to, last_to) : rv;
    if (rv != 0) {
        return rv;
    }
    struct name *name = find_name(parent->names->list, parent->names->count, last);
    if (name == NULL) {
        return -ENOENT;
    }
    if (fails(disks[machine].faults.write_one_in)) {
        return -EIO;
    }
    SIM_CHECK(parent == parent_to, "a rename from one directory to another");
    strikes(machine, &after);
    change_names(parent, last, last_to, name->inode);
    strike_after(machine, after);
    return 0;
}

ssize_t vdisk_read_at(unsigned machine, const struct inode *inode, uint64_t at, void *bytes, size_t length)
{
    wait_shortly();
    if (fails(disks[machine].faults.read_one_in)) {
        return -EIO;
    }
    if (at >= inode->size) {
        return 0;
    }
    length = inode->size - at < length ? inode->size - at : length;
    memcpy(bytes, inode->bytes + at, length);
    return (ssize_t)length;
}

ssize_t vdisk_write_at(unsigned machine, struct inode *inode, uint64_t at, const void *bytes, size_t length)
{
    bool after;
    wait_shortly();
    if (at + length > inode->size && no_space(machine) != 0) {
        return -ENOSPC;
    }
    if (fails(disks[machine].faults.write_one_in)) {
        if (sim_chance(2)) { /* some of it was written */
            put_bytes(inode, at, bytes, sim_random(length + 1));
        }
        return -EIO;
    }
    if (processes[machine].crash_after == 1 && sim_chance(2)) { /* in the middle of it */
        put_bytes(inode, at, bytes, sim_random(length + 1));
    }
    strikes(machine, &after);
    put_bytes(inode, at, bytes, length);
    strike_after(machine, after);
    return (ssize_t)length;
}

int vdisk_resize(unsigned machine, struct inode *inode, uint64_t size, bool grow_only)
{
    wait_shortly();
    if (size > inode->size && no_space(machine) != 0) {
        return -ENOSPC;
    }
    make_room(inode, size);
    if (size < inode->size && !grow_only) {
        memset(inode->bytes + size, 0, inode->room - size);
        memset(inode->dirty + size / SECTOR, DIRTY, inode->room / SECTOR - size / SECTOR);
    }
    inode->size = size > inode->size || !grow_only ? size : inode->size;
    return 0;
}

static void flush_sectors(struct inode *inode, unsigned one_in_stays)
{
    for (size_t i = 0; i < inode->room / SECTOR; i++) {
        if (inode->dirty[i] == (DIRTY | FLUSHING) && !sim_chance(one_in_stays)) {
            memcpy(inode->durable + i * SECTOR, inode->bytes + i * SECTOR, SECTOR);
            inode->dirty[i] = 0;
        }
    }
}

int vdisk_flush(unsigned machine, struct inode *inode, bool direct)
{
    const struct sim_disk_faults *faults = &disks[machine].faults;
    bool after;
    size_t changes = inode->directory ? inode->names->change_count : 0, size = inode->size;
    for (size_t i = 0; i < inode->room / SECTOR; i++) {
        inode->dirty[i] |= inode->dirty[i] != 0 ? FLUSHING : 0;
    }
    if (processes[machine].crash_after == 1) { /* in the middle of it */
        flush_sectors(inode, 2);
    }
    strikes(machine, &after);
    if (fiber_running()) {
        uint64_t ns = sim_between(faults->flush_min_ns, faults->flush_max_ns);
        sim_counts.slow_flushes += ns > SLOW_NS;
        fiber_sleep(ns);
    }
    if (fails(faults->flush_one_in)) {
        if (!direct && sim_chance(2)) {
            sim_counts.flushes_lied++;
            for (size_t i = 0; i < inode->room / SECTOR; i++) {
                inode->dirty[i] = inode->dirty[i] == (DIRTY | FLUSHING) ? 0 : inode->dirty[i];
            }
        }
        strike_after(machine, after);
        return -EIO;
    }
    flush_sectors(inode, 0);
    inode->durable_size = inode->durable_size == inode->size ? inode->size : size;
    if (inode->directory) {
        settle_names(inode, changes < inode->names->change_count ? changes : inode->names->change_count,
                     false);
    }
    strike_after(machine, after);
    return 0;
}

/* ---- disks -------------------------------------------------------------------------------------------- */

void sim_disk_faults(unsigned machine, const struct sim_disk_faults *faults)
{
    disks[machine].faults = *faults;
}

void vdisk_crash(unsigned machine, bool power)
{
    unsigned mode = (unsigned)sim_random(4);
    bool alike = sim_chance(2); /* or each file fares as it may */
    for (struct inode *inode = disks[machine].inodes; inode != NULL; inode = inode->next) {
        mode = alike ? mode : (unsigned)sim_random(4);
        if (!power) {
            if (!inode->directory) {
                evict_file(inode);
            }
        } else if (inode->directory) {
            size_t most = inode->names->change_count;
            settle_names(inode, mode == 0 ? 0 : mode == 1 ? most : sim_random(most + 1), true);
        } else {
            crash_file(inode, mode);
        }
    }
}

void vdisk_format(unsigned machine)
{
    struct disk *disk = &disks[machine];
    *disk = (struct disk){.faults = {.flush_min_ns = 60 * SIM_US, .flush_max_ns = 500 * SIM_US}};
    disk->root = new_inode(disk, true);
}

void vdisk_drop(unsigned machine)
{
    struct disk *disk = &disks[machine];
    while (disk->inodes != NULL) {
        struct inode *inode = disk->inodes;
        disk->inodes = inode->next;
        if (inode->directory) {
            memory_real_free(inode->names->list);
            memory_real_free(inode->names->durable);
            memory_real_free(inode->names->changes);
        }
        memory_real_free(inode->names);
        memory_real_free(inode->bytes);
        memory_real_free(inode->durable);
        memory_real_free(inode->dirty);
        memory_real_free(inode);
    }
    disk->root = NULL;
}

void sim_disk_wipe(unsigned machine)
{
    struct sim_disk_faults faults = disks[machine].faults;
    SIM_CHECK(!processes[machine].alive, "machine %u runs", machine);
    vdisk_drop(machine);
    vdisk_format(machine);
    disks[machine].faults = faults;
}

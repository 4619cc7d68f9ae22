/* A simulated disk: files in memory, operations that end when the test says, faults, and power cuts.
 *
 * An operation takes effect on `now` (what the programs read back) when it ends. A power cut makes a new
 * disk: what has ended is there; each write that has not is lost, whole, or torn at sector grain; each other
 * operation happened or did not. That is all a disk promises: nothing is said of order among operations that
 * were under way together. */
#ifndef DN_TEST_SIM_DISK_H
#define DN_TEST_SIM_DISK_H

#include "journal/disk.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIM_FILES 64
#define SIM_OPS 16
#define SIM_SECTOR 512

enum sim_kind { SIM_CREATE, SIM_WRITE, SIM_RENAME, SIM_REMOVE, SIM_KINDS };

struct sim_inode {
    char name[DN_DISK_NAME_MAX]; /* empty: removed */
    uint8_t *bytes;
    uint64_t length;
    unsigned opened;
};

struct dn_disk_file {
    struct sim_disk *disk;
    struct sim_inode *inode;
};

struct sim_op {
    enum sim_kind kind;
    struct dn_disk_op *op;
    struct dn_disk_file *file;
    uint64_t offset, length;
    uint8_t *bytes; /* a copy of what is written */
    char from[DN_DISK_NAME_MAX], to[DN_DISK_NAME_MAX];
    struct dn_disk_file **ret_file;
};

struct sim_disk {
    struct dn_disk disk; /* first */
    struct sim_inode inodes[SIM_FILES];
    struct sim_op ops[SIM_OPS];
    unsigned op_count;
    uint64_t random;
    unsigned done[SIM_KINDS];                             /* operations begun of each kind */
    unsigned fail_from[SIM_KINDS], fail_count[SIM_KINDS]; /* the n-th (from 1) and how many after fail */
    int fail_error;
    uint64_t writes, bytes;
    char settled[DN_DISK_NAME_MAX]; /* by the last recovery: the file, and from where to where */
    uint64_t settled_from, settled_end;
};

static inline uint64_t sim_random(struct sim_disk *sim)
{
    uint64_t z = (sim->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline struct sim_inode *sim_find(struct sim_disk *sim, const char *name)
{
    for (unsigned i = 0; i < SIM_FILES; i++)
        if (sim->inodes[i].name[0] && strcmp(sim->inodes[i].name, name) == 0)
            return &sim->inodes[i];
    return NULL;
}

static inline struct sim_inode *sim_inode_new(struct sim_disk *sim, const char *name, uint64_t length)
{
    for (unsigned i = 0; i < SIM_FILES; i++) {
        struct sim_inode *inode = &sim->inodes[i];
        if (inode->name[0] || inode->opened)
            continue;
        free(inode->bytes);
        inode->bytes = calloc(1, length + 1);
        inode->length = length;
        snprintf(inode->name, sizeof inode->name, "%s", name);
        return inode;
    }
    abort(); /* raise SIM_FILES */
}

static inline enum dn_code sim_list(struct dn_disk *disk, void (*each)(void *, const char *, uint64_t),
                                    void *data, struct dn_error *err)
{
    struct sim_disk *sim = (struct sim_disk *)disk;
    (void)err;
    for (unsigned i = 0; i < SIM_FILES; i++)
        if (sim->inodes[i].name[0])
            each(data, sim->inodes[i].name, sim->inodes[i].length);
    return DN_OK;
}

static inline struct dn_disk_file *sim_handle(struct sim_disk *sim, struct sim_inode *inode)
{
    struct dn_disk_file *file = calloc(1, sizeof *file);
    *file = (struct dn_disk_file){sim, inode};
    inode->opened++;
    return file;
}

static inline enum dn_code sim_open(struct dn_disk *disk, const char *name, struct dn_disk_file **ret,
                                    struct dn_error *err)
{
    struct sim_disk *sim = (struct sim_disk *)disk;
    struct sim_inode *inode = sim_find(sim, name);
    if (!inode)
        return dn_fail(err, DN_IO, "no file '%s'", name);
    *ret = sim_handle(sim, inode);
    return DN_OK;
}

static inline enum dn_code sim_read(struct dn_disk_file *file, uint64_t offset, void *buffer, size_t length,
                                    size_t *ret_length, struct dn_error *err)
{
    (void)err;
    uint64_t there = offset < file->inode->length ? file->inode->length - offset : 0;
    *ret_length = there < length ? (size_t)there : length;
    memcpy(buffer, file->inode->bytes + offset, *ret_length);
    return DN_OK;
}

static inline void sim_close(struct dn_disk_file *file)
{
    file->inode->opened--;
    free(file);
}

/* What has ended is durable here: it only notes what recovery wants to be sure of. */
static inline enum dn_code sim_settle(struct dn_disk *disk, const char *name, uint64_t offset, size_t length,
                                      struct dn_error *err)
{
    struct sim_disk *sim = (struct sim_disk *)disk;
    (void)err;
    snprintf(sim->settled, sizeof sim->settled, "%s", name);
    sim->settled_from = offset;
    sim->settled_end = offset + length;
    return DN_OK;
}

static inline struct sim_op *sim_begin(struct sim_disk *sim, enum sim_kind kind, struct dn_disk_op *op)
{
    if (sim->op_count == SIM_OPS)
        abort();
    struct sim_op *begun = &sim->ops[sim->op_count++];
    *begun = (struct sim_op){.kind = kind, .op = op};
    return begun;
}

static inline void sim_create(struct dn_disk *disk, const char *name, uint64_t bytes,
                              struct dn_disk_file **ret_file, struct dn_disk_op *op)
{
    struct sim_op *begun = sim_begin((struct sim_disk *)disk, SIM_CREATE, op);
    snprintf(begun->to, sizeof begun->to, "%s", name);
    begun->length = bytes;
    begun->ret_file = ret_file;
}

static inline void sim_write(struct dn_disk_file *file, uint64_t offset, const void *buffer, size_t length,
                             struct dn_disk_op *op)
{
    if (offset % DN_DISK_ALIGN || length % DN_DISK_ALIGN || (uintptr_t)buffer % DN_DISK_ALIGN ||
        offset + length > file->inode->length)
        abort(); /* O_DIRECT would refuse it, or it changes the file's length */
    struct sim_op *begun = sim_begin(file->disk, SIM_WRITE, op);
    begun->file = file;
    begun->offset = offset;
    begun->length = length;
    begun->bytes = malloc(length);
    memcpy(begun->bytes, buffer, length);
    file->disk->writes++;
    file->disk->bytes += length;
}

static inline void sim_rename(struct dn_disk *disk, const char *from, const char *to, struct dn_disk_op *op)
{
    struct sim_op *begun = sim_begin((struct sim_disk *)disk, SIM_RENAME, op);
    snprintf(begun->from, sizeof begun->from, "%s", from);
    snprintf(begun->to, sizeof begun->to, "%s", to);
}

static inline void sim_remove(struct dn_disk *disk, const char *name, struct dn_disk_op *op)
{
    struct sim_op *begun = sim_begin((struct sim_disk *)disk, SIM_REMOVE, op);
    snprintf(begun->from, sizeof begun->from, "%s", name);
}

static inline void sim_submit(struct dn_disk *disk)
{
    (void)disk;
}

static inline void sim_destroy(struct dn_disk *disk)
{
    struct sim_disk *sim = (struct sim_disk *)disk;
    for (unsigned i = 0; i < SIM_FILES; i++)
        free(sim->inodes[i].bytes);
    for (unsigned i = 0; i < sim->op_count; i++)
        free(sim->ops[i].bytes);
    free(sim);
}

static inline struct sim_disk *sim_new(uint64_t seed)
{
    static const struct dn_disk_ops ops = {sim_list,   sim_open,   sim_read,   sim_close,
                                           sim_settle, sim_create, sim_write,  sim_rename,
                                           sim_remove, sim_submit, sim_destroy};
    struct sim_disk *sim = calloc(1, sizeof *sim);
    sim->disk = (struct dn_disk){&ops, "simulated"};
    sim->random = seed;
    return sim;
}

/* What the operation does to the files. */
static inline void sim_effect(struct sim_disk *sim, struct sim_op *op)
{
    struct sim_inode *inode;
    switch (op->kind) {
    case SIM_CREATE:
        inode = sim_inode_new(sim, op->to, op->length);
        if (op->ret_file)
            *op->ret_file = sim_handle(sim, inode);
        break;
    case SIM_WRITE:
        memcpy(op->file->inode->bytes + op->offset, op->bytes, op->length);
        break;
    case SIM_RENAME:
        if ((inode = sim_find(sim, op->to)))
            inode->name[0] = 0;
        if ((inode = sim_find(sim, op->from)))
            snprintf(inode->name, sizeof inode->name, "%s", op->to);
        break;
    case SIM_REMOVE:
        if ((inode = sim_find(sim, op->from)))
            inode->name[0] = 0;
        break;
    case SIM_KINDS:
        break;
    }
}

/* A failed write leaves any of its sectors written. */
static inline void sim_tear(struct sim_disk *sim, struct sim_inode *inode, const struct sim_op *op)
{
    unsigned how = (unsigned)(sim_random(sim) % 4);
    for (uint64_t at = 0; at < op->length; at += SIM_SECTOR) {
        bool written = how == 0   ? false
                       : how == 1 ? true
                       : how == 2 ? sim_random(sim) % 2
                                  : sim_random(sim) % 8 != 0;
        if (written)
            memcpy(inode->bytes + op->offset + at, op->bytes + at, SIM_SECTOR);
    }
}

/* Ends the k-th operation that is under way. */
static inline void sim_end(struct sim_disk *sim, unsigned k)
{
    struct sim_op op = sim->ops[k];
    memmove(&sim->ops[k], &sim->ops[k + 1], (--sim->op_count - k) * sizeof op);
    unsigned number = ++sim->done[op.kind];
    bool fails = sim->fail_from[op.kind] && number >= sim->fail_from[op.kind] &&
                 number < sim->fail_from[op.kind] + sim->fail_count[op.kind];
    if (!fails)
        sim_effect(sim, &op);
    else if (op.kind == SIM_WRITE)
        sim_tear(sim, op.file->inode, &op);
    free(op.bytes);
    op.op->done(op.op, fails ? -sim->fail_error : 0);
}

/* The disk as it may be found after the power went. */
static inline struct sim_disk *sim_power_cut(struct sim_disk *sim, uint64_t seed)
{
    struct sim_disk *cut = sim_new(seed);
    for (unsigned i = 0; i < SIM_FILES; i++) {
        const struct sim_inode *inode = &sim->inodes[i];
        if (!inode->name[0])
            continue;
        cut->inodes[i].bytes = malloc(inode->length + 1);
        memcpy(cut->inodes[i].bytes, inode->bytes, inode->length);
        cut->inodes[i].length = inode->length;
        memcpy(cut->inodes[i].name, inode->name, sizeof inode->name);
    }
    for (unsigned k = 0; k < sim->op_count; k++) {
        const struct sim_op *op = &sim->ops[k];
        struct sim_op again = *op;
        if (op->kind == SIM_WRITE) {
            struct sim_inode *inode = &cut->inodes[op->file->inode - sim->inodes];
            if (inode->name[0])
                sim_tear(cut, inode, op);
        } else if (sim_random(cut) % 2) {
            again.ret_file = NULL;
            if (op->kind == SIM_CREATE && sim_random(cut) % 2)
                again.length = sim_random(cut) % (op->length + 1); /* not all of it yet */
            sim_effect(cut, &again);
        }
    }
    return cut;
}

#endif

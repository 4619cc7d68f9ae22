/* Nemeses: what their files share. Private.
 *
 * A fault is begun, given turns while it lasts, and ended; its end heals all that it did, however far its
 * beginning came. Everything that is chosen for a fault is drawn from its own `random`, which the schedule
 * gives it: so what is chosen depends on the seed, and on who leads where a leader is asked for. */
#ifndef DN_CHAOS_NEMESIS_INTERNAL_H
#define DN_CHAOS_NEMESIS_INTERNAL_H

#include "chaos/cluster_internal.h"
#include "chaos/nemesis.h"

#define NEMESIS_TURN_MS 50
#define NEMESIS_TEXT_MAX 300

/* Two faults of a combination are of different kinds of these. Only NEMESIS_MEMBERS may lose a disk: two lost
 * at once are a majority of three. */
enum nemesis_class {
    NEMESIS_PROCESS,
    NEMESIS_NET,
    NEMESIS_DISK,
    NEMESIS_CLOCK,
    NEMESIS_MEMBERS,
    NEMESIS_STREAM,
    NEMESIS_COMBINED
};

struct fault {
    struct chaos_cluster *c;
    uint64_t random;
    unsigned node;               /* the one it hits; 0: several, or none */
    char text[NEMESIS_TEXT_MAX]; /* what was done, for the history */
    int64_t next_turn_ms;        /* of faults that go on and off */
    bool on, done;
    unsigned hit[NET_PLACES], hit_count; /* all it hits, when several */
    int64_t value;                       /* the fault's own */
    int pipe;                            /* to the guard; -1: none */
    pid_t guard;                         /* a child that undoes the fault when this program is killed */
    char file[CLUSTER_PATH_MAX];         /* a damaged file of the journal */
    int64_t offset;
    uint8_t byte;
};

struct nemesis {
    struct chaos_nemesis_info info;
    enum nemesis_class class;
    /* Why it cannot be had here (text of the cluster's or static); NULL: it can. NULL function: always. */
    const char *(*probe)(struct chaos_cluster *c);
    enum dn_code (*begin)(struct fault *f, struct dn_error *err);
    void (*turn)(struct fault *f, int64_t now_ms); /* every NEMESIS_TURN_MS; NULL: nothing to do */
    enum dn_code (*end)(struct fault *f, struct dn_error *err);
};

/* All of them: one table a file, joined by nemesis.c. */
extern const struct nemesis NEMESES_PROCESS[], NEMESES_NET[], NEMESES_DISK[], NEMESES_JOURNAL[],
    NEMESES_CLOCK[], NEMESES_MEMBERS[], NEMESES_STREAM[];
extern const unsigned NEMESES_PROCESS_COUNT, NEMESES_NET_COUNT, NEMESES_DISK_COUNT, NEMESES_JOURNAL_COUNT,
    NEMESES_CLOCK_COUNT, NEMESES_MEMBERS_COUNT, NEMESES_STREAM_COUNT;

/* The number'th of the list; NULL behind its end. */
const struct nemesis *nemesis_at(unsigned number);
/* Whether this name of a list, of that length, names it: by its own, or by "all" or "stream". */
bool nemesis_is_meant(const struct nemesis *one, const char *name, size_t length);

/* ---- nemesis_choose.c
 * -------------------------------------------------------------------------------------- */

/* 0 .. below - 1. */
unsigned fault_draw(struct fault *f, unsigned below);
/* A member that runs; 0: none. */
unsigned fault_any(struct fault *f);
/* The node that leads a group drawn by the fault, or one that does not (leader false). Looks for a leader for
 * up to some seconds. 0: none was found (leader true), or no other node runs. */
unsigned fault_by_leader(struct fault *f, bool leader);
/* The members that run, in an order drawn by the fault, into f->hit. */
void fault_shuffle(struct fault *f);
/* Makes f->hit the first (count - 1) / 2 of the members that run. */
void fault_minority(struct fault *f);
/* DN_PRECONDITION: fault_by_leader found nobody. */
enum dn_code fault_no_one(struct dn_error *err);
void fault_say(struct fault *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
int64_t nemesis_now_ms(void);

/* ---- nemesis_schedule.c
 * ------------------------------------------------------------------------------------ */

#define NEMESIS_NAMES_MAX CHAOS_NEMESES_MAX

/* One step: none for quiet_ms, then these faults together for fault_ms. */
struct nemesis_step {
    const struct nemesis *faults[2];
    unsigned count;
    uint64_t random[2];
    int64_t quiet_ms, fault_ms;
};

struct nemesis_plan {
    const struct nemesis *names[NEMESIS_NAMES_MAX];
    unsigned count;
    uint64_t random;
    int64_t fault_ms[2], quiet_ms[2];
};

/* DN_INVALID: a name that is none. */
enum dn_code nemesis_plan_begin(const struct chaos_schedule *schedule, struct nemesis_plan *ret,
                                struct dn_error *err);
/* The plan must have at least one name. */
void nemesis_plan_next(struct nemesis_plan *plan, struct nemesis_step *ret);

/* ---- shared by several kinds
 * --------------------------------------------------------------------------------- */

/* Starts what should run, and waits until all that run are ready again. */
enum dn_code nemesis_settle(struct chaos_cluster *c, struct dn_error *err);
/* An empty data directory for a node that is down. */
enum dn_code nemesis_wipe(struct chaos_cluster *c, unsigned node, struct dn_error *err);
/* The node is down with an empty disk and takes its own place again. */
enum dn_code nemesis_replace(struct chaos_cluster *c, unsigned node, struct dn_error *err);

#endif

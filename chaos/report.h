/* Reports: what a history and its judgement look like to people, and the figures of each kind of fault. Pure
 * but for the files it writes; one thread; nobody appends to the history meanwhile. Where memory is out the
 * program ends. */
#ifndef DN_CHAOS_REPORT_H
#define DN_CHAOS_REPORT_H

#include "chaos/check.h"

#define CHAOS_FIGURES_MAX 64 /* kinds of faults; more are left out of the tables */
#define CHAOS_NAME_MAX 64

/* What the history does not know. All may be 0 or NULL. */
struct chaos_report_info {
    uint64_t seed;
    const char *command;     /* the command line that repeats the run */
    const char *schedule;    /* for people: nemeses, duration, nodes, shards */
    const char *const *logs; /* paths of the nodes' logs */
    size_t logs_count;
    const char *const *skipped; /* nemeses that this machine cannot have: "name: why" */
    size_t skipped_count;
    const char *const
        *findings; /* lines of the logs that must not be there (assertions, sanitizers, crashes) */
    size_t findings_count;
};

/* Writes into folder (made when missing, its parent is there): history.edn, verdict.txt, verdict.json and
 * timeline.html (self-contained, one picture whatever the length of the history). info: NULL allowed. DN_IO
 * with the path. */
enum dn_code chaos_report_write(const char *folder, const struct chaos_history *history,
                                const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                                const struct chaos_report_info *info, struct dn_error *err);

/* The verdict as text (verdict.txt, the terminal) and as one JSON object. info: NULL allowed. */
void chaos_verdict_text(FILE *out, const struct chaos_history *history,
                        const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                        const struct chaos_report_info *info);
void chaos_verdict_json(FILE *out, const struct chaos_history *history,
                        const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                        const struct chaos_report_info *info);

/* What one fault did. It lasts from the :invoke of its "begin" to the :info of its "end"; its effects are
 * looked for until the next fault begins, but no longer than CHAOS_AFTERMATH_NS past its end. Faults that
 * overlap each get the whole of what happened.
 *
 * Time without a successful write: the longest time between two acknowledged writes of one group (from the
 * last one before the fault on), where writes of that group were asked for. */
#define CHAOS_AFTERMATH_NS 5000000000

struct chaos_fault {
    const char *name; /* of the history */
    const char *what; /* what it did, for people; NULL: nothing is said */
    uint32_t node;    /* 0: none, or several */
    bool open;        /* it has no end: end_ns is the history's */
    bool begun;       /* false: its beginning failed, `what` says why; it is in no figures */
    size_t index;     /* of its first operation */
    int64_t begin_ns, end_ns;
    uint32_t groups; /* in which writes were asked for */
    uint32_t worst_group;
    int64_t gap_ns;                    /* of worst_group; -1: no writes were asked for */
    int64_t gaps_ns[CHAOS_GROUPS_MAX]; /* each group's; -1: none asked for */
    uint64_t writes, writes_failed;    /* that ended; failed: not acknowledged */
    uint64_t reads, reads_failed;
    int64_t write_p50_ns, write_p99_ns; /* of those that did not fail; 0: none */
    int64_t read_p50_ns, read_p99_ns;
};

/* All faults of the history in the order in which they begin, malloc'ed (the caller frees); NULL: none. */
struct chaos_fault *chaos_faults(const struct chaos_history *history, size_t *ret_count);

/* How many of them were not begun. */
size_t chaos_faults_not_begun(const struct chaos_fault *faults, size_t count);

/* The same over all faults of one name, of one run or of many. */
struct chaos_figures {
    char name[CHAOS_NAME_MAX];
    uint64_t faults;    /* that were made */
    uint64_t not_begun; /* beside those; nothing else here is of them */
    uint64_t gaps;      /* pairs of a fault and a group: what the percentiles are of */
    int64_t gap_p50_ns, gap_p99_ns, gap_max_ns;
    uint64_t writes, writes_failed, reads, reads_failed;
};

struct chaos_figures_sum;
struct chaos_figures_sum *chaos_figures_create(void);
void chaos_figures_destroy(struct chaos_figures_sum *sum); /* NULL allowed */
void chaos_figures_add(struct chaos_figures_sum *sum, const struct chaos_fault *faults, size_t count);
/* Returns how many kinds there are, sorted by name. */
size_t chaos_figures_get(const struct chaos_figures_sum *sum, struct chaos_figures ret[CHAOS_FIGURES_MAX]);

#endif

/* Eval: how good recommendations are, measured on a log of clicks. The log is split in time: the older part
 * is applied to shards of its own, as records, and for each click of the newer part it is seen at which place
 * the item was that was clicked next. State machine, catalogue, sources, blend and learning are the server's
 * own.
 *
 *   batch  the state stays as it is at the split; each prefix of a newer session is asked for
 *   live   each newer click is asked for, then applied, then learned from, in order of time ("prequential")
 *
 * One thread; a batch's requests are spread over threads of its own. */
#ifndef DN_RECOMMEND_EVAL_H
#define DN_RECOMMEND_EVAL_H

#include "recommend/recommend.h"

#include <stdio.h>

#define DN_EVAL_LINE_MAX 65536 /* bytes */
#define DN_EVAL_EVENTS_MAX ((size_t)200000000)
#define DN_EVAL_ITEMS_MAX 2000000u
#define DN_EVAL_KS_MAX 8
#define DN_EVAL_K_MAX 1000
#define DN_EVAL_THREADS_MAX 32
#define DN_EVAL_SHARDS_MAX 64
#define DN_EVAL_WINDOWS 40 /* parts that a live run's quality is shown in */

/* ---- the log ----------------------------------------------------------------------------------------- */

enum dn_eval_choice { DN_EVAL_AUTO, DN_EVAL_NO, DN_EVAL_YES };

/* Files may be gzip. What a file is, its first line says:
 *   timed      a header `ts user session item type price`, then such lines; tabs; ts in seconds since 1970
 *   JSON lines {"time_ms","item","session","user","type","price"}; time_ms, item and one of session and user
 *   sequences  one session a line, items separated by spaces, in order of time
 * A session goes by its name, or by its user's where it has none. */
struct dn_eval_input {
    const char *events;
    const char *test;              /* lines `prefix TAB next item`, with sequences; NULL: events are split */
    double split;                  /* share of the time span that is learned from: 0 to 1, both excluded */
    const char *item_pattern;      /* extended regular expression: other items are left out; NULL: none are */
    const char *drop_types;        /* types that are left out, with commas; NULL: "cancel" */
    enum dn_eval_choice repeats;   /* keep an item clicked twice in a row; AUTO: in sequences */
    enum dn_eval_choice last_item; /* may the item just clicked be recommended; AUTO: in sequences */
    int64_t gap_ms;                /* a longer pause makes two sessions; 0: never */
    int64_t pace_ms;               /* between two sessions of sequences, which have no times of their own */
};

struct dn_eval_facts {
    const char *format;     /* static text */
    bool pairs;             /* has a file of prefixes: no live run */
    size_t lines, left_out; /* left out: by type or by pattern */
    size_t other_types;     /* events of a type dunlin does not have: they count as clicks */
    size_t train_sessions, train_events, test_sessions, cases;
    size_t single, across; /* sessions left out: of one item; begun before the split and ended behind it */
    size_t items;
    int64_t cut_ms; /* 0: none */
};

struct dn_eval_set;

/* DN_INVALID with file, line and reason; DN_IO; DN_EXHAUSTED above a maximum; DN_NO_MEMORY. */
enum dn_code dn_eval_read(const struct dn_eval_input *input, struct dn_eval_set **ret, struct dn_error *err);
void dn_eval_set_free(struct dn_eval_set *set); /* NULL allowed */
void dn_eval_set_facts(const struct dn_eval_set *set, struct dn_eval_facts *ret);

/* ---- a run ------------------------------------------------------------------------------------------- */

/* What is compared: the blend, what was clicked most (counted here), and each source alone. */
enum { DN_EVAL_BLEND, DN_EVAL_POPULAR, DN_EVAL_SOURCES, DN_EVAL_METHODS = DN_EVAL_SOURCES + DN_SOURCE_COUNT };
/* "blend", "popular", "vstan"; NULL: no such method. */
const char *dn_eval_method_name(unsigned method);

struct dn_eval_options {
    bool live;
    uint32_t methods;                   /* bits 1 << method */
    size_t ks[DN_EVAL_KS_MAX], k_count; /* rising, each 1..DN_EVAL_K_MAX */
    size_t max;                         /* predictions; 0: all. Batch: a sample. Live: the first sessions */
    uint64_t seed;                      /* of the sample */
    unsigned threads;
    uint32_t shards;
    size_t learn;      /* newest training sessions that are learned from; 0: nothing is learned */
    bool no_network;   /* the model learns without its challenger (learn.h) */
    bool hide_seen;    /* never recommend what is in the session */
    bool recall;       /* shown: did a source name the item, in the request that is measured? */
    bool cold;         /* items are in the catalogue before their first click */
    const char *items; /* their vectors, as dn_items_read takes them; NULL: none */
    const char *ids;
    const char *factory; /* of the vectors' index; NULL: "Flat" */
    const char *save;    /* write the first method's places to this file, opened before the work; NULL: not */
    const char *against; /* compare it with such a file of another run; NULL: not */
    struct dn_shard_settings settings;
    struct dn_recommend_settings recommend; /* sources_off: of the blend and its learning alone */
    void (*progress)(void *data, const char *what, uint64_t done, uint64_t total); /* NULL: none */
    void *progress_data;
};
/* The server's defaults, but for what would forget or cut a session of the log: see docs/eval.md. */
void dn_eval_options_default(struct dn_eval_options *options);

struct dn_eval_value { /* mean, and half the width of its 95 % interval: normal, clustered by session */
    double mean, half; /* half is NaN where there is one session only */
};
struct dn_eval_at {
    size_t k;
    struct dn_eval_value hr, mrr, ndcg;
    double coverage;                        /* share of the catalogue that was ever recommended */
    struct dn_eval_value hr_less, mrr_less; /* than the blend's; 0 where the blend was not asked for */
};
struct dn_eval_method {
    const char *name;
    double cpu_us;               /* of one request */
    struct dn_eval_value recall; /* a source named the item; popular: it is among the largest k */
    struct dn_eval_at at[DN_EVAL_KS_MAX];
    struct dn_eval_value hr_gain,
        mrr_gain; /* at the largest k, over the run it is compared with: the first one's */
    double window_hr[DN_EVAL_WINDOWS], window_mrr[DN_EVAL_WINDOWS]; /* at window_k */
};
struct dn_eval_result {
    bool live;
    size_t predictions, sessions;
    size_t catalog;            /* items in it at the end */
    size_t events, refused;    /* applied; not taken by the state */
    size_t steps, used;        /* of learning; of these the clicked item was a candidate */
    double loss;               /* mean over the used ones, of the last tenth of steps */
    double network_loss;       /* the challenger's, of the same; 0: there is none */
    bool network_leads;        /* in the end */
    double apply_us, learn_us; /* CPU of one event, of one step */
    uint64_t memory_bytes;     /* of the shards */
    struct dn_error unsaved;   /* why options->save was not written; its code is DN_OK: there is nothing */
    size_t method_count, k_count;
    struct dn_eval_method methods[DN_EVAL_METHODS];
    size_t window_count, window_k; /* live only */
};

/* DN_INVALID: options that cannot be met, another run's file that is not of these predictions. DN_IO: a file
 * cannot be opened; both before anything is learned. DN_UNAVAILABLE: the index was not built. A result is
 * also made where `save` cannot be written in the end. It is freed with free(). */
enum dn_code dn_eval_run(const struct dn_eval_set *set, const struct dn_eval_options *options,
                         struct dn_eval_result **ret, struct dn_error *err);

/* A chart of a live run's windows as SVG: the blend and the best others. False: the file cannot be written
 * (errno), or there is nothing to show (errno 0). */
bool dn_eval_plot(const struct dn_eval_result *result, const char *title, FILE *file);

#endif

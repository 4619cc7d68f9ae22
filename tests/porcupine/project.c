/* Makes histories that Porcupine can judge, and says of each what our own rules find.
 *
 *   chaos_project OUT LIVES SEED FILE...
 *
 * Each FILE (EDN) and LIVES simulated lives, right ones and such with a defect, become a history of
 * publishes, erasures and LINEARIZABLE reads alone, OUT/NAME.edn. Its first line is "; ours: valid" or ";
 * ours: violated": what the rules lost, twice, invented, slices and real-time say to it. */
#include "tests/unit/chaos/simulated_life.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

static struct sim sim;

static const char *out_folder;
static unsigned written[2];

static void die(const char *what, const char *why)
{
    fprintf(stderr, "chaos_project: %s: %s\n", what, why);
    exit(2);
}

/* Operations that say something of a register that is a set. */
static bool is_kept(const struct chaos_op *op)
{
    return op->f == CHAOS_PUBLISH || op->f == CHAOS_ERASE ||
           (op->f == CHAOS_READ && op->level == CHAOS_LINEARIZABLE);
}

static struct chaos_history *project(const struct chaos_history *history)
{
    struct chaos_history *projected = chaos_history_create();
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        struct chaos_op op = *chaos_history_at(history, i);
        size_t pair = chaos_history_pair(history, i);
        const struct chaos_op *invoke =
            op.type == CHAOS_INVOKE || pair == SIZE_MAX ? &op : chaos_history_at(history, pair);
        if (is_kept(invoke)) {
            op.index = chaos_history_count(projected);
            op.age_known = false;
            chaos_history_append_as_is(projected, &op);
        }
    }
    return projected;
}

static void write_one(const struct chaos_history *whole, const char *name)
{
    static const enum chaos_rule rules[] = {CHAOS_RULE_LOST, CHAOS_RULE_TWICE, CHAOS_RULE_INVENTED,
                                            CHAOS_RULE_SLICES, CHAOS_RULE_REAL_TIME};
    static struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    struct chaos_history *history = project(whole);
    char path[PATH_MAX];
    bool violated = false;
    struct dn_error err;
    chaos_check(history, NULL, judgements);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        violated |= judgements[rules[i]].verdict == CHAOS_VIOLATED;
    }
    (void)snprintf(path, sizeof path, "%s/%s.edn", out_folder, name);
    FILE *out = fopen(path, "w");
    if (out == NULL) {
        die(path, strerror(errno));
    }
    fprintf(out, "; ours: %s\n", violated ? "violated" : "valid");
    if (chaos_history_write(history, out, &err) != DN_OK || fclose(out) != 0) {
        die(path, "cannot be written");
    }
    written[violated]++;
    chaos_history_destroy(history);
}

static void project_file(const char *path, unsigned number)
{
    struct chaos_history *history = NULL;
    struct dn_error err;
    char name[300];
    FILE *in = fopen(path, "r");
    if (in == NULL) {
        die(path, strerror(errno));
    }
    if (chaos_history_read(in, path, &history, &err) != DN_OK) {
        die("read", err.message);
    }
    fclose(in);
    const char *last = strrchr(path, '/');
    (void)snprintf(name, sizeof name, "file-%03u-%.200s", number, last != NULL ? last + 1 : path);
    write_one(history, name);
    chaos_history_destroy(history);
}

/* Half of the lives are right, the others have one of those defects that such reads can show. */
static void project_lives(unsigned lives, uint64_t seed)
{
    static const enum sim_defect defects[] = {SIM_LOSE_EVENT,    SIM_COUNT_TWICE, SIM_INVENT_EVENT,
                                              SIM_COUNT_REFUSED, SIM_STALE_READ,  SIM_FORGET_ERASE};
    struct test_random random = {.state = seed};
    for (unsigned life = 0; life < lives; life++) {
        char name[100];
        enum sim_defect defect =
            life % 2 == 0 ? SIM_NONE : defects[life / 2 % (sizeof defects / sizeof *defects)];
        uint64_t own = test_random_next(&random);
        struct chaos_history *history = sim_run(&sim, own, defect);
        (void)snprintf(name, sizeof name, "life-%03u-%s-%llu", life, sim_defect_name(defect),
                       (unsigned long long)own);
        write_one(history, name);
        chaos_history_destroy(history);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "Usage: chaos_project OUT LIVES SEED FILE...\n");
        return 2;
    }
    out_folder = argv[1];
    project_lives((unsigned)strtoul(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    for (int i = 4; i < argc; i++) {
        project_file(argv[i], (unsigned)i - 3);
    }
    printf("%u histories that our rules find valid, %u violated\n", written[false], written[true]);
    return 0;
}

/* The report folder. */
#include "chaos/report_private.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

enum part { PART_HISTORY, PART_TEXT, PART_JSON, PART_TIMELINE, PARTS };

static enum dn_code part_write(FILE *out, enum part part, const struct chaos_history *history,
                               const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                               const struct chaos_report_info *info, struct dn_error *err)
{
    switch (part) {
    case PART_HISTORY:
        return chaos_history_write(history, out, err);
    case PART_TEXT:
        chaos_verdict_text(out, history, judgements, info);
        return DN_OK;
    case PART_JSON:
        chaos_verdict_json(out, history, judgements, info);
        return DN_OK;
    default:
        chaos_timeline_html(out, history, judgements, info);
        return DN_OK;
    }
}

enum dn_code chaos_report_write(const char *folder, const struct chaos_history *history,
                                const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                                const struct chaos_report_info *info, struct dn_error *err)
{
    static const char *const names[PARTS] = {"history.edn", "verdict.txt", "verdict.json", "timeline.html"};
    static const struct chaos_report_info nothing;
    char path[PATH_MAX];
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return dn_fail(err, DN_IO, "make the folder '%s': %s", folder, strerror(errno));
    }
    for (int part = 0; part < PARTS; part++) {
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, names[part]) >= sizeof path) {
            return dn_fail(err, DN_INVALID, "the path '%s' is too long", folder);
        }
        FILE *out = fopen(path, "w");
        if (out == NULL) {
            return dn_fail(err, DN_IO, "write '%s': %s", path, strerror(errno));
        }
        enum dn_code code =
            part_write(out, (enum part)part, history, judgements, info != NULL ? info : &nothing, err);
        bool failed = ferror(out) != 0;
        failed = fclose(out) != 0 || failed;
        if (code != DN_OK) {
            return dn_wrap(err, code, "'%s'", path);
        }
        if (failed) {
            return dn_fail(err, DN_IO, "write '%s': %s", path, strerror(errno));
        }
    }
    return DN_OK;
}

/* The parts of the report among each other. */
#ifndef DN_CHAOS_REPORT_PRIVATE_H
#define DN_CHAOS_REPORT_PRIVATE_H

#include "chaos/report.h"

double chaos_ms(int64_t ns);

/* The page timeline.html. info is not NULL. */
void chaos_timeline_html(FILE *out, const struct chaos_history *history,
                         const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                         const struct chaos_report_info *info);

#endif

/* Private to `dunlin eval`: how results are shown. */
#ifndef DN_NODE_CLI_EVAL_H
#define DN_NODE_CLI_EVAL_H

#include "recommend/eval.h"

struct dn_cli_eval_report {
    const char *events;
    const char *against; /* the file of another run; NULL: none */
    bool recall;         /* was asked for */
    unsigned threads;
    double read_s, run_s;
    const struct dn_eval_facts *facts;
    const struct dn_eval_result *result;
};
void dn_cli_eval_table(const struct dn_cli_eval_report *report);
/* As dn_cli_print_json. */
bool dn_cli_eval_json(const struct dn_cli_eval_report *report);

#endif

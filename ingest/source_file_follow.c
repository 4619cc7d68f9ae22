#include "ingest/source_file_table_private.h"

enum dn_code dn_file_follow_create(struct dn_file_table *table, struct dn_error *err)
{
    (void)table;
    return dn_fail(err, DN_UNIMPLEMENTED, "follow");
}
void dn_file_follow_destroy(struct dn_file_follow *follow)
{
    (void)follow;
}
bool dn_file_follow_scan(struct dn_file_table *table)
{
    (void)table;
    return false;
}
bool dn_file_follow_glance(struct dn_file_table *table)
{
    (void)table;
    return false;
}

#include "ingest/schema_private.h"

#include <math.h>
#include <string.h>

#define NUMBER_TEXT_MAX 64     /* bytes in a time or a weight */
#define MANTISSA_DIGITS_MAX 19 /* fit into 64 bits */
#define EXPONENT_MAX 100000    /* larger ones are as good as this */
#define EXACT_POWER_MAX 22     /* 10^22 is the largest power of ten that a double holds exactly */
#define WEIGHT_MAX 255
#define LEAP_YEARS_TO_1969 478 /* from year 0 */
#define MS_PER_DAY ((int64_t)86400000)

/* digits * 10^exponent. Digits that do not fit are cut off, which rounds towards zero. */
struct decimal {
    bool negative;
    uint64_t digits;
    int exponent;
};

struct cursor {
    const char *at, *end;
};

static bool next_is_digit(const struct cursor *cursor)
{
    return cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9';
}

static bool take(struct cursor *cursor, char c)
{
    if (cursor->at == cursor->end || *cursor->at != c) {
        return false;
    }
    cursor->at++;
    return true;
}

/* Takes digits into the decimal; false if there is none. */
static bool take_mantissa(struct cursor *cursor, struct decimal *ret, int *taken, bool fraction)
{
    if (!next_is_digit(cursor)) {
        return false;
    }
    for (; next_is_digit(cursor); cursor->at++) {
        unsigned digit = (unsigned)(*cursor->at - '0');
        if (*taken == MANTISSA_DIGITS_MAX) {
            ret->exponent += fraction ? 0 : 1;
            continue;
        }
        ret->digits = ret->digits * 10 + digit;
        ret->exponent -= fraction ? 1 : 0;
        *taken += ret->digits > 0;
    }
    return true;
}

static bool take_exponent(struct cursor *cursor, struct decimal *ret)
{
    bool negative = take(cursor, '-');
    int exponent = 0;
    if (!negative) {
        (void)take(cursor, '+');
    }
    if (!next_is_digit(cursor)) {
        return false;
    }
    for (; next_is_digit(cursor); cursor->at++) {
        exponent = exponent < EXPONENT_MAX ? exponent * 10 + (*cursor->at - '0') : exponent;
    }
    ret->exponent += negative ? -exponent : exponent;
    return true;
}

/* JSON's grammar of numbers, but for zeros in front, which are allowed. */
static bool decimal_parse(const char *text, size_t length, struct decimal *ret)
{
    struct cursor cursor = {text, text + length};
    int taken = 0;
    *ret = (struct decimal){.negative = take(&cursor, '-')};
    if (length > NUMBER_TEXT_MAX || !take_mantissa(&cursor, ret, &taken, false)) {
        return false;
    }
    if (take(&cursor, '.') && !take_mantissa(&cursor, ret, &taken, true)) {
        return false;
    }
    if ((take(&cursor, 'e') || take(&cursor, 'E')) && !take_exponent(&cursor, ret)) {
        return false;
    }
    return cursor.at == cursor.end;
}

/* Times 10^shift, rounded down; false: not within [0, max). */
static bool decimal_floor(const struct decimal *decimal, int shift, int64_t max, int64_t *ret)
{
    uint64_t value = decimal->digits;
    int exponent = decimal->exponent + shift;
    if (value > 0 && decimal->negative) {
        return false;
    }
    for (; exponent > 0 && value > 0; exponent--) {
        if (value >= (uint64_t)max) {
            return false;
        }
        value *= 10; /* max is below 2^60 */
    }
    for (; exponent < 0 && value > 0; exponent++) {
        value /= 10;
    }
    if (value >= (uint64_t)max) {
        return false;
    }
    *ret = (int64_t)value;
    return true;
}

static double decimal_double(const struct decimal *decimal)
{
    static const double powers[EXACT_POWER_MAX + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    double value = (double)decimal->digits;
    if (decimal->exponent < -EXACT_POWER_MAX || decimal->exponent > EXACT_POWER_MAX) {
        value *= pow(10, decimal->exponent);
    } else if (decimal->exponent < 0) {
        value /= powers[-decimal->exponent];
    } else {
        value *= powers[decimal->exponent];
    }
    return decimal->negative ? -value : value;
}

/* ---- ISO 8601 --------------------------------------------------------------------------------------- */

/* Exactly `count` digits. */
static bool take_number(struct cursor *cursor, unsigned count, int *ret)
{
    *ret = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!next_is_digit(cursor)) {
            return false;
        }
        *ret = *ret * 10 + (*cursor->at++ - '0');
    }
    return true;
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* Days from 1970-01-01 to the date (Gregorian, also before it was in use); false: there is no such date. */
static bool date_days(int year, int month, int day, int64_t *ret)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    if (month < 1 || month > 12 || day < 1 ||
        day > lengths[month - 1] + (month == 2 && is_leap(year) ? 1 : 0)) {
        return false;
    }
    int last = year - 1;
    int leap_years = year > 0 ? last / 4 - last / 100 + last / 400 + 1 : 0; /* from year 0, which is one */
    *ret = (int64_t)(year - 1970) * 365 + (leap_years - LEAP_YEARS_TO_1969) + before[month - 1] + (day - 1) +
           (month > 2 && is_leap(year) ? 1 : 0);
    return true;
}

/* ".123", cut to milliseconds; nothing is 0. */
static bool take_fraction(struct cursor *cursor, int *ret_ms)
{
    int scale = 100;
    *ret_ms = 0;
    if (!take(cursor, '.') && !take(cursor, ',')) {
        return true;
    }
    if (!next_is_digit(cursor)) {
        return false;
    }
    for (; next_is_digit(cursor); cursor->at++, scale /= 10) {
        *ret_ms += scale * (*cursor->at - '0');
    }
    return true;
}

/* "Z", "+02:00", "+0200", "+02". */
static bool take_zone(struct cursor *cursor, int *ret_minutes)
{
    int hours, minutes = 0;
    *ret_minutes = 0;
    if (take(cursor, 'Z') || take(cursor, 'z')) {
        return true;
    }
    bool west = take(cursor, '-');
    if (!west && !take(cursor, '+')) {
        return false;
    }
    if (!take_number(cursor, 2, &hours)) {
        return false;
    }
    bool colon = take(cursor, ':');
    if ((colon || cursor->at < cursor->end) && !take_number(cursor, 2, &minutes)) {
        return false;
    }
    *ret_minutes = (hours * 60 + minutes) * (west ? -1 : 1);
    return hours < 24 && minutes < 60;
}

/* "2024-05-01T12:34:56.789+02:00"; a space may stand for the T, seconds may be left out. A leap second is the
 * one after it. */
static const char *iso8601(const char *text, size_t length, int64_t *ret_ms)
{
    struct cursor cursor = {text, text + length};
    int year, month, day, hour, minute, second = 0, ms = 0, zone_minutes;
    int64_t days;
    if (!take_number(&cursor, 4, &year) || !take(&cursor, '-') || !take_number(&cursor, 2, &month) ||
        !take(&cursor, '-') || !take_number(&cursor, 2, &day)) {
        return "is not an ISO 8601 time such as 2024-05-01T12:34:56.789Z";
    }
    if (!date_days(year, month, day, &days)) {
        return "has a date that does not exist";
    }
    if (!(take(&cursor, 'T') || take(&cursor, 't') || take(&cursor, ' ')) ||
        !take_number(&cursor, 2, &hour) || !take(&cursor, ':') || !take_number(&cursor, 2, &minute)) {
        return "has no time of day such as T12:34:56";
    }
    if (take(&cursor, ':') && (!take_number(&cursor, 2, &second) || !take_fraction(&cursor, &ms))) {
        return "has no seconds after the second colon";
    }
    if (hour > 23 || minute > 59 || second > 60) {
        return "has a time of day that does not exist";
    }
    if (!take_zone(&cursor, &zone_minutes)) {
        return "has no zone: Z, or an offset such as +02:00, must follow the time of day";
    }
    if (cursor.at != cursor.end) {
        return "has more after the zone";
    }
    *ret_ms = days * MS_PER_DAY + ((hour * 60 + minute - zone_minutes) * (int64_t)60 + second) * 1000 + ms;
    return *ret_ms < 0 ? "is before 1970" : NULL;
}

/* ---- what schema.c asks ----------------------------------------------------------------------------- */

const char *dn_schema_time(const char *text, size_t length, enum dn_time_unit unit, int64_t *ret_ms)
{
    static const int shifts[] = {[DN_TIME_MS] = 0, [DN_TIME_S] = 3, [DN_TIME_US] = -3, [DN_TIME_NS] = -6};
    struct decimal decimal;
    if (length > NUMBER_TEXT_MAX) {
        return "is too long for a time";
    }
    if (unit == DN_TIME_ISO8601) {
        return iso8601(text, length, ret_ms);
    }
    if (!decimal_parse(text, length, &decimal)) {
        return "is not a number";
    }
    if (!decimal_floor(&decimal, shifts[unit], DN_TIME_MAX_MS, ret_ms)) {
        return "is out of range: before 1970, or after the year 10000 (is the time unit right?)";
    }
    return NULL;
}

const char *dn_schema_weight(double weight, uint16_t *ret_weight)
{
    if (!isfinite(weight) || weight < 0 || weight > WEIGHT_MAX) {
        return "is not within 0 (taken as 1) to 255";
    }
    double fixed = weight > 0 ? round(weight * DN_WEIGHT_ONE) : DN_WEIGHT_ONE;
    *ret_weight = fixed < 1 ? 1 : (uint16_t)fixed;
    return NULL;
}

const char *dn_schema_weight_text(const char *text, size_t length, uint16_t *ret_weight)
{
    struct decimal decimal;
    if (!decimal_parse(text, length, &decimal)) {
        return "is not a number";
    }
    return dn_schema_weight(decimal_double(&decimal), ret_weight);
}

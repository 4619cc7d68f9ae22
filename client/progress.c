#include "client/progress.h"

#include "base/clock.h"

#include <stdio.h>
#include <unistd.h>

#define DRAW_INTERVAL_US 100000
#define BAR_WIDTH 30

void dn_progress_begin(struct dn_progress *progress, const char *label, uint64_t total)
{
    *progress = (struct dn_progress){
        .label = label, .total = total, .start_us = dn_monotonic_us(), .on = isatty(STDERR_FILENO) == 1};
}

static void draw(const struct dn_progress *progress, uint64_t done, uint64_t now_us)
{
    double seconds = (double)(now_us - progress->start_us) / 1e6;
    double rate = seconds > 0 ? (double)done / seconds : 0;

    if (progress->total > 0) {
        double share = done >= progress->total ? 1.0 : (double)done / (double)progress->total;
        int filled = (int)(share * BAR_WIDTH);
        double left = rate > 0 && done < progress->total ? (double)(progress->total - done) / rate : 0;

        fprintf(stderr, "\r\033[K%s [%.*s%*s] %3.0f %%  %llu/%llu  %.0f/s  %.0f s left", progress->label,
                filled, "##############################", BAR_WIDTH - filled, "", share * 100,
                (unsigned long long)done, (unsigned long long)progress->total, rate, left);
    } else {
        fprintf(stderr, "\r\033[K%s %llu  %.0f/s", progress->label, (unsigned long long)done, rate);
    }
    fflush(stderr);
}

void dn_progress_update(struct dn_progress *progress, uint64_t done)
{
    uint64_t now_us;

    if (!progress->on)
        return;
    now_us = dn_monotonic_us();
    if (now_us - progress->drawn_us < DRAW_INTERVAL_US)
        return;
    progress->drawn_us = now_us;
    draw(progress, done, now_us);
}

void dn_progress_end(struct dn_progress *progress)
{
    if (progress->on && progress->drawn_us != 0)
        fputs("\r\033[K", stderr);
    progress->on = false;
}

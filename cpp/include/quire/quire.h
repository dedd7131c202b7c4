#pragma once

/// Everything a program that embeds quire needs.
#include "quire/config.h"
#include "quire/engine.h"
#include "quire/error.h"
#include "quire/log.h"
#include "quire/output_queue.h"
#include "quire/request.h"
#include "quire/sampling.h"
#include "quire/version.h"
#include "quire/vocabulary.h"

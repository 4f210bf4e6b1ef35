//! How the programs measure: processor time, and a baseline beside each subject, in turn.

use std::fmt::Debug;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use rustix::time::{ClockId, clock_gettime};

/// Says how large a run is: `short`, `usual` or `long`.
pub const FORM: &str = "CONCLAVE_BENCH_FORM";
/// Says how often baseline and subject take turns.
pub const ROUNDS: &str = "CONCLAVE_BENCH_ROUNDS";
/// What the name of a baseline begins with.
pub const BASELINE: &str = "baseline: ";

/// What is handed to code that measures.
pub type Bencher<'a> = criterion::Bencher<'a, ProcessorTime>;
/// Code that measures, under its name.
pub type Named<'a> = (&'a str, &'a mut dyn FnMut(&mut Bencher<'_>));

/// Processor time of the whole process: what other programs do on the machine counts for less.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorTime;

static FORMAT: WallTime = WallTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        process_time()
    }

    fn end(&self, began: Duration) -> Duration {
        process_time().saturating_sub(began)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        one.saturating_add(*other)
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_secs_f64() * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        FORMAT.formatter()
    }
}

/// Processor time that this process has used.
#[must_use]
pub fn process_time() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// Processor time that this thread has used.
#[must_use]
pub fn thread_time() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// How large a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Seconds: whether the programs run.
    Short,
    /// The figures that are quoted.
    Usual,
    /// With what takes many minutes.
    Long,
}

impl Form {
    /// The one that the environment asks for.
    #[must_use]
    pub fn asked() -> Self {
        match std::env::var(FORM).as_deref() {
            Ok("short") => Self::Short,
            Ok("long") => Self::Long,
            _ => Self::Usual,
        }
    }

    /// As [`FORM`] says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Usual => "usual",
            Self::Long => "long",
        }
    }

    /// What is measured in this form.
    pub fn pick<T>(self, short: T, usual: T) -> T {
        match self {
            Self::Short => short,
            Self::Usual | Self::Long => usual,
        }
    }
}

/// One program's measurements.
pub struct Bench {
    criterion: Criterion<ProcessorTime>,
    rounds: usize,
    /// How large this run is.
    pub form: Form,
}

impl Bench {
    /// As environment and command line ask for.
    #[must_use]
    pub fn asked() -> Self {
        let form = Form::asked();
        let rounds = std::env::var(ROUNDS).ok();
        let (warm_up, measure) = form.pick((20, 80), (300, 1_000));
        let criterion = Criterion::default()
            .with_measurement(ProcessorTime)
            .sample_size(form.pick(10, 20))
            .warm_up_time(Duration::from_millis(warm_up))
            .measurement_time(Duration::from_millis(measure))
            .configure_from_args();
        Self {
            criterion,
            rounds: rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1),
            form,
        }
    }

    /// Measures a subject and its baseline in turn. One iteration does `units` of what the case is about.
    pub fn pair(
        &mut self,
        subject: &str,
        case: &str,
        units: u64,
        baseline: Named<'_>,
        own: Named<'_>,
    ) {
        let mut group = self.criterion.benchmark_group(subject);
        group.throughput(Throughput::Elements(units));
        if units > 1 {
            // Few and long iterations: as many in each sample.
            group.sample_size(10).sampling_mode(SamplingMode::Flat);
        }
        for round in 1..=self.rounds {
            let name = format!("{BASELINE}{} #{round}", baseline.0);
            group.bench_function(BenchmarkId::new(name, case), &mut *baseline.1);
            let name = format!("{} #{round}", own.0);
            group.bench_function(BenchmarkId::new(name, case), &mut *own.1);
        }
        group.finish();
    }

    /// To be called at the end.
    pub fn finish(&self) {
        self.criterion.final_summary();
    }
}

/// The value. A benchmark that cannot go on ends its program: there is nobody to hand an error to.
pub fn sure<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            eprintln!("the benchmark cannot go on: {error:?}");
            std::process::exit(1);
        }
    }
}

package org.lastmile.phone;

import android.app.Activity;
import android.content.ComponentName;
import android.content.Context;
import android.content.Intent;
import android.os.Looper;
import android.os.PowerManager;
import android.util.Log;
import java.io.BufferedReader;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;
import java.time.Duration;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.json.JSONObject;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.model.FrameworkMethod;
import org.junit.runners.model.InitializationError;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.Shadows;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;
import org.robolectric.annotation.LooperMode;
import org.robolectric.annotation.Implementation;
import org.robolectric.annotation.Implements;
import org.robolectric.internal.bytecode.InstrumentationConfiguration;
import org.robolectric.shadows.ShadowBuild;
import org.robolectric.shadows.ShadowContextImpl;
import org.robolectric.shadows.ShadowEnvironment;
import org.robolectric.shadows.ShadowLog;
import org.robolectric.shadows.ShadowSystemClock;
import org.robolectric.shadows.ShadowSystemProperties;
import org.robolectric.util.ReflectionHelpers;

/**
 * An app's process on the emulated phone. Each line of standard input is a JSON object: {"start": activity, "extras":
 * {...}} or {"thermal": status}. Each gets a line with a leading 0x01 back: empty, or what went wrong. All else that is
 * printed is the log's. It has no test's end: it lives until it is killed, or until the app's code throws.
 */
@RunWith(Phone.Runner.class)
@Config(sdk = 34, qualifiers = "w411dp-h891dp-xxhdpi", shadows = Phone.Storage.class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@LooperMode(LooperMode.Mode.PAUSED)
public class Phone {
    private static final String END = "";
    private static final int FRAME_MS = 4;

    @Test
    public void lives() throws Exception {
        PrintStream answers = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
        ShadowLog.stream = System.out;
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> dies(thread.getName(), error));
        prepare(new JSONObject(System.getenv("PHONE_PROPERTIES")));
        BlockingQueue<String> asked = new LinkedBlockingQueue<>();
        Thread listener = new Thread(() -> listen(asked), "listener");
        listener.setDaemon(true);
        listener.start();
        long last = System.nanoTime();
        while (true) {
            String line = asked.poll(FRAME_MS, TimeUnit.MILLISECONDS);
            if (END.equals(line)) return;
            try {
                if (line != null) {
                    answer(new JSONObject(line));
                    answers.println("\u0001");
                }
                long now = System.nanoTime(); // Robolectric's clock stands still by itself
                ShadowSystemClock.advanceBy(Duration.ofNanos(now - last));
                last = now;
                Shadows.shadowOf(Looper.getMainLooper()).idle();
            } catch (Throwable error) {
                dies("main", error);
            }
        }
    }

    private static void prepare(JSONObject properties) throws Exception {
        for (Iterator<String> keys = properties.keys(); keys.hasNext(); ) {
            String key = keys.next();
            ShadowSystemProperties.override(key, properties.getString(key));
        }
        ShadowBuild.setManufacturer(properties.getString("ro.product.manufacturer"));
        ShadowBuild.setBrand(properties.getString("ro.product.brand"));
        ShadowBuild.setModel(properties.getString("ro.product.model"));
        ShadowBuild.setDevice(properties.getString("ro.product.device"));
        ShadowBuild.setProduct(properties.getString("ro.product.name"));
        ShadowBuild.setSystemOnChipManufacturer(properties.getString("ro.soc.manufacturer"));
        ShadowBuild.setSystemOnChipModel(properties.getString("ro.soc.model"));
        ShadowBuild.setSupportedAbis(properties.getString("ro.product.cpu.abilist").split(","));
        ShadowBuild.setSupported64BitAbis(properties.getString("ro.product.cpu.abilist").split(","));
        ShadowEnvironment.setExternalStorageDirectory(Paths.get("/sdcard"));
        ShadowEnvironment.setExternalStorageState("mounted");
    }

    private static void listen(BlockingQueue<String> asked) {
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = reader.readLine(); line != null; line = reader.readLine()) asked.add(line);
        } catch (java.io.IOException error) {
            Log.e("Phone", "standard input", error);
        }
        asked.add(END);
    }

    private static void answer(JSONObject asked) throws Exception {
        if (asked.has("thermal")) {
            PowerManager power = (PowerManager) RuntimeEnvironment.getApplication().getSystemService(Context.POWER_SERVICE);
            Shadows.shadowOf(power).setCurrentThermalStatus(asked.getInt("thermal"));
            return;
        }
        String name = asked.getString("start");
        Context context = RuntimeEnvironment.getApplication();
        Intent intent = new Intent().setComponent(new ComponentName(context.getPackageName(), name));
        JSONObject extras = asked.getJSONObject("extras");
        for (Iterator<String> keys = extras.keys(); keys.hasNext(); ) {
            String key = keys.next();
            intent.putExtra(key, extras.getString(key));
        }
        Robolectric.buildActivity(Class.forName(name).asSubclass(Activity.class), intent).setup();
    }

    /** The app's Kotlin library is R8's work as the app is, and belongs into the sandbox with it: it knows its classes. */
    public static class Runner extends RobolectricTestRunner {
        public Runner(Class<?> test) throws InitializationError {
            super(test);
        }

        @Override
        protected InstrumentationConfiguration createClassLoaderConfig(FrameworkMethod method) {
            InstrumentationConfiguration made = super.createClassLoaderConfig(method);
            Set<String> outside = new HashSet<>(ReflectionHelpers.<Set<String>>getField(made, "packagesToNotAcquire"));
            outside.removeIf(name -> name.startsWith("kotlin"));
            ReflectionHelpers.setField(made, "packagesToNotAcquire", outside);
            return made;
        }
    }

    /** The app's own folder on the phone's storage; Robolectric's is a temporary one of another name. */
    @Implements(className = ShadowContextImpl.CLASS_NAME)
    public static class Storage extends ShadowContextImpl {
        @Implementation
        protected File getExternalFilesDir(String type) {
            String own = "/sdcard/Android/data/" + RuntimeEnvironment.getApplication().getPackageName() + "/files";
            File folder = type == null ? new File(own) : new File(own, type);
            folder.mkdirs();
            return folder;
        }
    }

    /** What Android does with what an app does not catch, on whatever thread. */
    private static void dies(String thread, Throwable error) {
        StringWriter trace = new StringWriter();
        error.printStackTrace(new PrintWriter(trace));
        for (String line : ("FATAL EXCEPTION: " + thread + "\n" + trace).split("\n"))
            System.out.println("E/AndroidRuntime: " + line);
        System.out.flush();
        Runtime.getRuntime().halt(1);
    }
}
